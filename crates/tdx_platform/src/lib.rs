//! Module, engine and machine as processors that take SEAMCALL.
