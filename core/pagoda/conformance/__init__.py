"""The kit that holds any backend to the contract."""
