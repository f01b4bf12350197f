# `cmake --install`: programs, the probe and its C half with their public headers, the .proto files, and
# find_package(ikkuna).
include(CMakePackageConfigHelpers)

foreach(program IN ITEMS ikkuna-daemon ikkuna ikkuna-train)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()

if(EXISTS ${CMAKE_SOURCE_DIR}/proto)
  install(DIRECTORY proto/ DESTINATION ${CMAKE_INSTALL_DATADIR}/ikkuna/proto FILES_MATCHING PATTERN "*.proto")
endif()

if(TARGET ikkuna_probe_c)
  install(FILES probe/ikkuna/probe.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/ikkuna)
  install(TARGETS ikkuna_probe_c EXPORT ikkuna-c LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ikkuna)
  install(EXPORT ikkuna-c NAMESPACE ikkuna:: FILE ikkuna-c-targets.cmake DESTINATION ${config_dir})
  configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/ikkuna-config.cmake.in
                                ${CMAKE_BINARY_DIR}/ikkuna-config.cmake INSTALL_DESTINATION ${config_dir})
  write_basic_package_version_file(${CMAKE_BINARY_DIR}/ikkuna-config-version.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${CMAKE_BINARY_DIR}/ikkuna-config.cmake ${CMAKE_BINARY_DIR}/ikkuna-config-version.cmake
          DESTINATION ${config_dir})
endif()

if(TARGET ikkuna_probe)
  install(FILES probe/ikkuna/probe.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/ikkuna)
  install(TARGETS ikkuna_probe EXPORT ikkuna LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT ikkuna NAMESPACE ikkuna:: FILE ikkuna-targets.cmake DESTINATION ${config_dir})
  install(FILES ${CMAKE_CURRENT_LIST_DIR}/FindIkkunaTorch.cmake DESTINATION ${config_dir})
endif()
