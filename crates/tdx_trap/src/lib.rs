//! Serves SEAMCALL and TDCALL to ordinary programs through their faults.
