// Exists so that the precompiled torch header has one owner.
