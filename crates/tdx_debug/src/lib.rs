//! GDB on a DEBUG TD.
