//! GDB on a DEBUG TD, through the host library alone: the same on hardware and on the software platform.
//!
//! [`serve`] speaks GDB's remote protocol with one client until it detaches. Whoever runs the TD's vCPUs implements
//! [`Owner`]. All vCPUs are threads; stopping one stops all. What a debugger of a TD can do, and what it cannot, is
//! in spec: vp-enter.md 10.
#![forbid(unsafe_code)]

mod layout;
mod listen;
mod monitor;
mod owner;
mod pass;
mod registers;
mod resume;
mod session;
mod stops;
mod target;
mod values;

pub use listen::{Address, Listener, Stream};
pub use owner::{Owner, Parts, Slice, Which};
pub use session::{Leave, ServeError, serve};
