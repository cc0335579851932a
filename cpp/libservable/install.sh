#!/bin/sh
# Installs libservable: the library that was built, its headers, and what CMake and pkg-config ask.
#
#   install.sh BUILT_LIBRARY PREFIX
set -eu
library=$1
prefix=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$here/../..
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)

install -d "$prefix/include/servable" "$prefix/lib/cmake/servable_engine" "$prefix/lib/pkgconfig"
install -m 755 "$library" "$prefix/lib/libservable.so.0"
ln -sf libservable.so.0 "$prefix/lib/libservable.so"
for header in tensor.h io.hpp engine.h engine.hpp; do
  install -m 644 "$root/include/servable/$header" "$prefix/include/servable/"
done
for file in servable_engine-config.cmake servable_engine-config-version.cmake; do
  sed "s/@VERSION@/$version/" "$here/$file.in" > "$prefix/lib/cmake/servable_engine/$file"
done
sed "s/@VERSION@/$version/" "$here/libservable.pc.in" > "$prefix/lib/pkgconfig/libservable.pc"
