// A subject's bindings add themselves, so that no file lists them.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

namespace pagoda {

using Bind = void (*)(nanobind::module_&);

inline std::vector<Bind>& bindings() {
    static std::vector<Bind> all;
    return all;
}

struct Binding {
    explicit Binding(Bind bind) { bindings().push_back(bind); }
};

}  // namespace pagoda
