//! An x86-64 processor in VMX non-root mode.
