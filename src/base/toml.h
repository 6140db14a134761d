// Pieces of TOML text for messages and help; config.h has whole documents.
#pragma once

#include <string>

#include "base/config.h"

namespace megalodon::config {

/// The key as a TOML document has it: quoted where it must be.
std::string toml_key(const std::string& key);

/// The value on one line. Throws Error for what TOML cannot hold: null, integers from 2^63, invalid UTF-8.
std::string toml_value(const Tree& value);

}  // namespace megalodon::config
