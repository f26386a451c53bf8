//! TDVF metadata, TD HOB and measurement plan of a firmware image.
