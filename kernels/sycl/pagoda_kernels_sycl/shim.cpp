// A C interface to the SYCL run time: build kernels from source, launch them on a queue.
// A queue is made here for the CPU device, or is torch's own (torch.xpu.Stream.sycl_queue).
// Functions that fail return null or 1 and leave the reason for pagoda_sycl_error().
#include <sycl/sycl.hpp>

#include <cstring>
#include <string>

namespace compiler = sycl::ext::oneapi::experimental;

static thread_local std::string reason;

template <class Work> static auto guarded(Work work, decltype(work()) failed) {
  try {
    return work();
  } catch (const std::exception &error) {
    reason = error.what();
  } catch (...) {
    reason = "an exception that says nothing";
  }
  return failed;
}

static sycl::queue &of(void *queue) { return *static_cast<sycl::queue *>(queue); }

extern "C" {

const char *pagoda_sycl_error() { return reason.c_str(); }

void *pagoda_sycl_cpu_queue() {
  return guarded(
      []() -> void * {
        return new sycl::queue{sycl::cpu_selector_v, sycl::property::queue::in_order{}};
      },
      nullptr);
}

// Lines "key=value" on the queue's device.
const char *pagoda_sycl_describe(void *queue) {
  static thread_local std::string text;
  return guarded(
      [&]() -> const char * {
        namespace info = sycl::info::device;
        auto device = of(queue).get_device();
        auto platform = device.get_platform().get_info<sycl::info::platform::name>();
        text = "name=" + device.get_info<info::name>();
        text += "\nplatform=" + platform;
        text += "\ndriver=" + device.get_info<info::driver_version>();
        text += "\ncompute_units=" + std::to_string(device.get_info<info::max_compute_units>());
        text += "\nhost_memory=" + std::to_string(device.has(sycl::aspect::usm_system_allocations));
        text += "\nfp16=" + std::to_string(device.has(sycl::aspect::fp16));
        text += "\nsub_groups=";
        for (auto size : device.get_info<info::sub_group_sizes>())
          text += std::to_string(size) + " ";
        return text.c_str();
      },
      nullptr);
}

void *pagoda_sycl_build(void *queue, const char *source) {
  return guarded(
      [&]() -> void * {
        auto parsed = compiler::create_kernel_bundle_from_source(
            of(queue).get_context(), compiler::source_language::sycl, std::string(source));
        using Program = sycl::kernel_bundle<sycl::bundle_state::executable>;
        return new Program(compiler::build(parsed, {of(queue).get_device()}));
      },
      nullptr);
}

void *pagoda_sycl_kernel(void *program, const char *name) {
  return guarded(
      [&]() -> void * {
        using Program = sycl::kernel_bundle<sycl::bundle_state::executable>;
        return new sycl::kernel(static_cast<Program *>(program)->ext_oneapi_get_kernel(name));
      },
      nullptr);
}

// kinds has a letter an argument: p pointer, l int64, i int32, f float; values 8 bytes each.
int pagoda_sycl_launch(void *queue, void *kernel, const char *kinds, const char *values,
                       size_t groups0, size_t groups1, size_t groups2, size_t items) {
  return guarded(
      [&] {
        of(queue).submit([&](sycl::handler &handler) {
          auto set = [&](int i, auto value) {
            std::memcpy(&value, values + 8 * i, sizeof value);
            handler.set_arg(i, value);
          };
          for (int i = 0; kinds[i]; ++i) {
            switch (kinds[i]) {
            case 'p': set(i, static_cast<void *>(nullptr)); break;
            case 'l': set(i, int64_t()); break;
            case 'i': set(i, int32_t()); break;
            case 'f': set(i, float()); break;
            }
          }
          sycl::nd_range<3> range({groups0, groups1, groups2 * items}, {1, 1, items});
          handler.parallel_for(range, *static_cast<sycl::kernel *>(kernel));
        });
        return 0;
      },
      1);
}

int pagoda_sycl_wait(void *queue) {
  return guarded(
      [&] {
        of(queue).wait_and_throw();
        return 0;
      },
      1);
}
}
