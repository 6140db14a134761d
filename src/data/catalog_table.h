// The text of the built-in catalogue, in pieces that are catalogues themselves.
#pragma once

namespace megalodon::data {

extern const char* const kCatalogTable;
extern const char* const kPg19Table;

}  // namespace megalodon::data
