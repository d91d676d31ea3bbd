"""An example of a Pagoda backend, to be read in one sitting: plugin, runner, cache, llama."""
