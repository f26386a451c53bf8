//! Debugging a DEBUG TD through the architected leaves alone: TDH.VP.RD and WR, TDH.MEM.RD and WR, the exception
//! bitmap and the debug registers. It works on hardware as on the software platform.
//!
//! A [`Stopped`] vCPU gives its registers through a [`DebugContext`] and memory through [`DebugMemory`]. What stops it
//! are [`Breakpoints`] and the single steps of a [`Stepper`]; an exception of the guest's own goes back to the guest
//! by [`PassThrough`]. A production TD answers every one of them with [`DebugError::ProductionTd`].

mod breakpoints;
mod context;
mod event;
mod handler;
mod memory;
mod pass;
mod register;
mod registers;
mod stepper;
mod stopped;
mod xsave;

pub use breakpoints::{Breakpoints, HardwareBreakpoint, Watch};
pub use context::{DebugContext, DebugError};
pub use event::{DebugEvent, enable_exits};
pub use memory::DebugMemory;
pub use pass::{PassThrough, Passing};
pub use register::{DebugReg, SegPart};
pub use registers::BorrowedRegisters;
pub use stepper::{Stepped, Stepper};
pub use stopped::Stopped;
pub use xsave::Component;
