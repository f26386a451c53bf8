//! Linux's six SEAMCALL and TDCALL functions as a C library.
