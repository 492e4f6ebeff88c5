# ExecuTorch built from its pinned sources and installed; whole archives, since kernels and delegates register themselves.
find_package(executorch CONFIG REQUIRED HINTS "${EXECUTORCH_PREFIX}" "${EXECUTORCH_PREFIX}/lib/cmake/ExecuTorch")
target_compile_definitions(
  runner PRIVATE C10_USING_CUSTOM_GENERATED_MACROS ET_USE_THREADPOOL QWEN_EDGE_EXECUTORCH_VERSION="1.5.1"
)
foreach(_library optimized_native_cpu_ops_lib quantized_ops_lib custom_ops xnnpack_backend)
  if(NOT TARGET ${_library})
    message(FATAL_ERROR "${EXECUTORCH_PREFIX} was built without ${_library}; see README.md for the options")
  endif()
  target_link_libraries(runner PRIVATE -Wl,--whole-archive ${_library} -Wl,--no-whole-archive)
endforeach()
target_link_libraries(runner PRIVATE executorch extension_module_static extension_tensor extension_threadpool)
