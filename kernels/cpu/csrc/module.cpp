// The module of one level: whatever subjects were compiled in.
#include "module.h"

NB_MODULE(PAGODA_MODULE, m) {
    for (auto bind : pagoda::bindings()) bind(m);
}
