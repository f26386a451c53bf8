//! Debugging a DEBUG TD through the architected leaves alone: TDH.VP.RD and WR, TDH.MEM.RD and WR, the exception
//! bitmap and the debug registers. It works on hardware as on the software platform.
//!
//! Registers go through a [`DebugContext`], memory through [`DebugMemory`], breakpoints through [`Breakpoints`];
//! [`set_single_step`] prepares single steps. A production TD answers every one of them with [`DebugError::ProductionTd`].

mod breakpoints;
mod context;
mod memory;
mod register;
mod step;

pub use breakpoints::{Breakpoints, HardwareBreakpoint, Watch};
pub use context::{DebugContext, DebugError};
pub use memory::DebugMemory;
pub use register::{DebugReg, SegPart};
pub use step::{DebugEvent, enable_exits, set_single_step};
