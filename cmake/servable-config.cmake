# The headers for models in C++, and how such a model is built.
#
#   find_package(servable REQUIRED)
#   servable_add_model(half half.cc)       # makes half/servable.so in the build directory
#
# CMake finds this file with -Dservable_DIR=$(servable include --cmake).

if(NOT TARGET servable::headers)
  # Beside this directory in the sources; where it is installed, below the same prefix.
  get_filename_component(_servable_include "${CMAKE_CURRENT_LIST_DIR}/../include" ABSOLUTE)
  if(NOT EXISTS "${_servable_include}/servable/servable.h")
    get_filename_component(_servable_include "${CMAKE_CURRENT_LIST_DIR}/../../../include" ABSOLUTE)
  endif()
  add_library(servable::headers INTERFACE IMPORTED)
  set_target_properties(
    servable::headers PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_servable_include}"
                                 INTERFACE_COMPILE_FEATURES cxx_std_17)
  unset(_servable_include)
endif()

# Make NAME/servable.so of some sources. Everything but the servable is hidden in it, so that
# versions that are loaded at one time have nothing in common.
function(servable_add_model NAME)
  add_library(${NAME} MODULE ${ARGN})
  target_link_libraries(${NAME} PRIVATE servable::headers)
  target_compile_options(${NAME} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
  set_target_properties(
    ${NAME}
    PROPERTIES PREFIX ""
               SUFFIX ".so"
               OUTPUT_NAME servable
               LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/${NAME}"
               C_VISIBILITY_PRESET hidden
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON)
endfunction()
