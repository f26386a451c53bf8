//! virtio 1.x devices on PCI. They reach shared guest memory only, and offer themselves to no driver that does not
//! know this (VIRTIO_F_ACCESS_PLATFORM).

mod block;
mod chain;
mod console;
mod entropy;
mod fuzz;
pub(crate) mod msix;
mod queue;
mod transport;

use std::fmt;

pub use self::block::{Block, NoDisk, Storage};
pub use self::chain::{Chain, Fault};
pub use self::console::Console;
pub use self::entropy::Entropy;
pub use self::fuzz::fuzz_driver;
pub(crate) use self::transport::Transport;
use crate::dma::SharedMemory;

/// What a kind of device is beside its queues' machinery.
pub trait Device: fmt::Debug + Send {
    /// For people, such as `virtio-blk`.
    fn name(&self) -> &'static str;
    /// The device id of the virtio specification, section 5.
    fn id(&self) -> u16;
    /// PCI class, subclass and programming interface, as 0xCCSSPP.
    fn class(&self) -> u32;
    /// Features of this kind of device, bits 0 to 23.
    fn features(&self) -> u64 {
        0
    }
    /// The largest size of each queue.
    fn queues(&self) -> &'static [u16];
    /// The device configuration, which no driver of these devices writes.
    fn config(&self) -> &[u8] {
        &[]
    }
    /// Whether requests in a queue can be served now.
    fn is_ready(&self, _queue: usize) -> bool {
        true
    }
    /// Serves a request; gives the number of bytes written into its writable part.
    fn serve(
        &mut self,
        queue: usize,
        chain: &Chain,
        memory: &dyn SharedMemory,
    ) -> Result<u32, Fault>;
    /// How many bytes typed at a console wait for the guest; `None` if the device is no console.
    fn typed(&self) -> Option<usize> {
        None
    }
    /// Bytes typed at a console; gives how many were taken.
    fn receive(&mut self, _bytes: &[u8]) -> usize {
        0
    }
}
