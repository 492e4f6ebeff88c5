# ExecuTorch as its wheel ships it: headers and shared libraries, without the llama:: operators, which are compiled here
# where the sources are given. The package's own CMake targets need CMake 3.28 and are not relied on.
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

# The operators of LLMs, of which the wheel has headers for none and libtorch's variant only. Everything they call is in the
# wheel's libraries.
if(EXECUTORCH_SOURCES)
  set(_operators "${EXECUTORCH_SOURCES}/extension/llm/custom_ops")
  if(NOT EXISTS "${_operators}/op_sdpa.cpp")
    message(FATAL_ERROR "-DEXECUTORCH_SOURCES=${EXECUTORCH_SOURCES} has no extension/llm/custom_ops/op_sdpa.cpp")
  elseif(NOT EXISTS "${TORCHAO_SOURCES}/torchao/csrc" OR NOT EXISTS "${TORCH_INCLUDE}/ATen/cpu/vec/vec.h")
    message(FATAL_ERROR "with -DEXECUTORCH_SOURCES give -DTORCHAO_SOURCES and -DTORCH_INCLUDE; see README.md")
  endif()
  # sources are included as executorch/..., whatever their folder is called
  file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/sources")
  file(CREATE_LINK "${EXECUTORCH_SOURCES}" "${CMAKE_CURRENT_BINARY_DIR}/sources/executorch" SYMBOLIC)
  add_library(llm_operators OBJECT "${_operators}/op_sdpa.cpp" "${_operators}/op_update_cache.cpp")
  target_compile_definitions(llm_operators PRIVATE C10_USING_CUSTOM_GENERATED_MACROS ET_USE_THREADPOOL)
  target_compile_options(llm_operators PRIVATE -w)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    target_compile_options(llm_operators PRIVATE -march=armv8.2-a+dotprod+fp16)  # as ExecuTorch's own build
  endif()
  # the wheel's headers first: they are those of the libraries
  target_include_directories(
    llm_operators SYSTEM
    PRIVATE "${_include}" "${_include}/executorch/runtime/core/portable_type/c10"
            "${CMAKE_CURRENT_BINARY_DIR}/sources" "${TORCHAO_SOURCES}" "${TORCH_INCLUDE}"
  )
  target_link_libraries(runner PRIVATE llm_operators)
endif()
