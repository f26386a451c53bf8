//! What a device asks the run loop to deliver.

/// An interrupt for a vCPU, named by its index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// Posted into the vCPU's descriptor.
    Vector { vcpu: u32, vector: u8 },
    /// Requested by TDVPS.PEND_NMI.
    Nmi { vcpu: u32 },
}
