# Compiler settings shared by every target of the tree, and the helpers the folders' CMakeLists use.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
if(NOT CMAKE_RUNTIME_OUTPUT_DIRECTORY)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endif()
if(NOT CMAKE_LIBRARY_OUTPUT_DIRECTORY)
  set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
endif()

# Installed programs find libikkuna_probe beside themselves and LibTorch where it was at build time.
set(CMAKE_INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)

find_program(IKKUNA_CCACHE ccache)
if(IKKUNA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Paths relative to the source, so that a second clone finds what the first has compiled; the sloppiness is what ccache
  # asks for to take precompiled headers.
  set(ccache ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=true
             CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${IKKUNA_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${ccache})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ccache})
endif()

find_package(Threads REQUIRED)

add_compile_options(-Wall -Wextra -Wvla $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor> -fno-omit-frame-pointer)
# GCC 12 sees overlapping copies in std::string's operator+ that are not there (bug 105651), and at -O3 strings in braced
# lists that nobody initialised, though their constructor did (bug 105562 and its kin).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict> $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
endif()
if(IKKUNA_WERROR)
  add_compile_options(-Werror)
endif()
if(IKKUNA_SANITIZE)
  add_compile_options(-fsanitize=${IKKUNA_SANITIZE})
  add_link_options(-fsanitize=${IKKUNA_SANITIZE})
  # Instrumentation confuses GCC's flow analysis, and TSan says once per use that it does not model fences.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-Wno-error=maybe-uninitialized -Wno-error=tsan)
  endif()
  if(IKKUNA_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()

# Most of what a file costs its compiler are the same headers and templates again. Names of one anonymous namespace must
# not stand in another of the same target then; `dev` shows that each file compiles alone.
set(CMAKE_UNITY_BUILD_BATCH_SIZE 8)
set(CMAKE_UNITY_BUILD ${IKKUNA_JUMBO})
if(IKKUNA_JUMBO AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-subobject-linkage>)  # of types in an included file, which each is
endif()

# Includes are written from the root of the repository: #include "shared/ring.h".
include_directories(${CMAKE_SOURCE_DIR})

# ikkuna_sources(VAR glob...): the files that match, relative to the calling folder, looked up again at every build.
function(ikkuna_sources var)
  set(patterns)
  foreach(pattern IN LISTS ARGN)
    list(APPEND patterns ${CMAKE_CURRENT_SOURCE_DIR}/${pattern})
  endforeach()
  file(GLOB found CONFIGURE_DEPENDS ${patterns})
  set(${var} ${found} PARENT_SCOPE)
endfunction()

# ikkuna_library(NAME SOURCES file... [LINK target...]): a static, position-independent library.
function(ikkuna_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK")
  if(NOT arg_SOURCES)
    return()
  endif()
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC Threads::Threads)
  ikkuna_link(${name} PUBLIC ${arg_LINK})
endfunction()

# ikkuna_link(NAME PUBLIC|PRIVATE target...): links those of the targets that this configuration builds.
function(ikkuna_link name scope)
  foreach(library IN LISTS ARGN)
    if(TARGET ${library})
      target_link_libraries(${name} ${scope} ${library})
    elseif(NOT library MATCHES "^ikkuna")
      message(FATAL_ERROR "${name} needs ${library}, which no find_package() has provided")
    endif()
  endforeach()
endfunction()

# ikkuna_precompile(NAME header...): what takes a compiler longest to read, others' headers alone, is read once for the
# target. Ours are not among them: each file includes what it uses.
function(ikkuna_precompile name)
  if(TARGET ${name})
    target_precompile_headers(${name} PRIVATE ${ARGN})
  endif()
endfunction()
