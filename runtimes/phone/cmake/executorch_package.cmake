# ExecuTorch as its wheel ships it: headers and shared libraries, without the llama:: operators. The package's own CMake
# targets need CMake 3.28 and are not relied on.
set(_include "${EXECUTORCH_PACKAGE}/include")
set(_libraries "${EXECUTORCH_PACKAGE}/lib")
if(NOT EXISTS "${_include}/executorch/extension/module/module.h")
  message(FATAL_ERROR "give -DEXECUTORCH_PACKAGE, the directory `executorch` of its wheel, or -DEXECUTORCH_PREFIX; see README.md")
endif()
file(STRINGS "${EXECUTORCH_PACKAGE}/share/cmake/executorch-config-version.cmake" _version REGEX "EXECUTORCH_BUILD_VERSION")
string(REGEX MATCH "\"([0-9][^\"+]*)" _matched "${_version}")
target_compile_definitions(
  runner PRIVATE C10_USING_CUSTOM_GENERATED_MACROS ET_USE_THREADPOOL QWEN_EDGE_EXECUTORCH_VERSION="${CMAKE_MATCH_1}"
)
target_include_directories(
  runner SYSTEM PRIVATE "${_include}" "${_include}/executorch/runtime/core/portable_type/c10"
)
target_link_directories(runner PRIVATE "${_libraries}")
# kernels and delegates register themselves as they are loaded: nothing refers to them
target_link_libraries(
  runner PRIVATE -Wl,--no-as-needed -lexecutorch -lexecutorch_kernels_optimized -lexecutorch_kernels_quantized
                 -lexecutorch_backend_xnnpack -lexecutorch_threadpool -Wl,--as-needed
)
