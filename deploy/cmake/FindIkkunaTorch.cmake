# Provides ikkuna::torch, LibTorch without its CUDA libraries, from one of, in this order:
#   a target `torch` that the project has already found with find_package(Torch);
#   Torch_DIR (.../share/cmake/Torch of a LibTorch archive or of a Python package);
#   IKKUNA_TORCH_VENV, a Python virtual environment that holds the package `torch`; its default is the one that
#   deploy/setup.sh makes, ${XDG_CACHE_HOME:-~/.cache}/ikkuna/venv-torch-2.11.0.
#
# The libraries are imported by hand: the TorchConfig.cmake of a CUDA package asks for a complete CUDA toolkit, and links
# libraries that cost each process 0.15 s and 350 MB at its start.
set(_ikkuna_cache "$ENV{XDG_CACHE_HOME}")
if(NOT _ikkuna_cache)
  set(_ikkuna_cache "$ENV{HOME}/.cache")
endif()
set(IKKUNA_TORCH_VENV "${_ikkuna_cache}/ikkuna/venv-torch-2.11.0" CACHE PATH "Virtual environment with the package torch")

set(_ikkuna_torch_root "")
if(TARGET ikkuna::torch)
  set(IkkunaTorch_FOUND TRUE)
  return()
elseif(TARGET torch)
  set(_ikkuna_torch_root "")
elseif(Torch_DIR)
  get_filename_component(_ikkuna_torch_root "${Torch_DIR}/../../.." ABSOLUTE)
  if(NOT EXISTS "${_ikkuna_torch_root}/lib/libtorch_cpu.so")
    set(_ikkuna_torch_root "")
    find_package(Torch REQUIRED)
  endif()
else()
  file(GLOB _ikkuna_torch_root "${IKKUNA_TORCH_VENV}/lib/python3*/site-packages/torch")
endif()

if(_ikkuna_torch_root)
  find_library(IKKUNA_TORCH_CPU_LIBRARY torch_cpu PATHS "${_ikkuna_torch_root}/lib" NO_DEFAULT_PATH)
  find_library(IKKUNA_C10_LIBRARY c10 PATHS "${_ikkuna_torch_root}/lib" NO_DEFAULT_PATH)
endif()

include(FindPackageHandleStandardArgs)
if(TARGET torch)
  set(_ikkuna_torch_where "target torch of find_package(Torch)")
  find_package_handle_standard_args(IkkunaTorch REQUIRED_VARS _ikkuna_torch_where)
else()
  find_package_handle_standard_args(IkkunaTorch
    REQUIRED_VARS IKKUNA_TORCH_CPU_LIBRARY IKKUNA_C10_LIBRARY
    REASON_FAILURE_MESSAGE "no LibTorch in '${IKKUNA_TORCH_VENV}': run deploy/setup.sh, or pass -DIKKUNA_TORCH_VENV=<venv with torch>, -DTorch_DIR=<libtorch>/share/cmake/Torch, or -DIKKUNA_BUILD_TORCH=OFF to build without it")
endif()
if(NOT IkkunaTorch_FOUND)
  return()
endif()

add_library(ikkuna::torch INTERFACE IMPORTED)
# RecordFunction has a debug-only member: code compiled without NDEBUG would read past the library's own layout.
set_property(TARGET ikkuna::torch APPEND PROPERTY INTERFACE_COMPILE_DEFINITIONS NDEBUG)
set_property(TARGET ikkuna::torch APPEND PROPERTY INTERFACE_LINK_OPTIONS LINKER:--no-as-needed)
if(TARGET torch)
  set_property(TARGET ikkuna::torch APPEND PROPERTY INTERFACE_LINK_LIBRARIES torch)
else()
  get_filename_component(_ikkuna_torch_lib "${IKKUNA_TORCH_CPU_LIBRARY}" DIRECTORY)
  foreach(_ikkuna_name IN ITEMS torch_cpu c10)
    string(TOUPPER "IKKUNA_${_ikkuna_name}_LIBRARY" _ikkuna_variable)
    if(NOT TARGET ikkuna::${_ikkuna_name})
      add_library(ikkuna::${_ikkuna_name} SHARED IMPORTED)
      set_property(TARGET ikkuna::${_ikkuna_name} PROPERTY IMPORTED_LOCATION "${${_ikkuna_variable}}")
      set_property(TARGET ikkuna::${_ikkuna_name} PROPERTY IMPORTED_SONAME "lib${_ikkuna_name}.so")
    endif()
    set_property(TARGET ikkuna::torch APPEND PROPERTY INTERFACE_LINK_LIBRARIES ikkuna::${_ikkuna_name})
  endforeach()
  file(GLOB _ikkuna_cuda_includes "${_ikkuna_torch_root}/../nvidia/cu13/include")
  foreach(_ikkuna_include IN ITEMS "${_ikkuna_torch_root}/include" "${_ikkuna_torch_root}/include/torch/csrc/api/include"
          ${_ikkuna_cuda_includes})
    set_property(TARGET ikkuna::torch APPEND PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${_ikkuna_include}")
  endforeach()
  # Programs that link a library which links LibTorch need its own dependencies found, too.
  set_property(TARGET ikkuna::torch APPEND PROPERTY INTERFACE_LINK_OPTIONS "LINKER:-rpath-link,${_ikkuna_torch_lib}")
endif()
