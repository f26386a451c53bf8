//! The host's side of TDX: bring-up, TD build, run loop, services, teardown.
