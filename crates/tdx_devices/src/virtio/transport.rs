//! The PCI face of a device (virtio 1.2, 4.1): configuration space, and one memory BAR with the structures that the
//! vendor capabilities name.

use super::msix::{Msi, Msix, le};
use super::queue::{NO_VECTOR, Queue};
use super::{Device, Fault};
use crate::dma::SharedMemory;
use crate::pci::{ConfigSpace, Identity};

/// The BAR: a page for each structure.
const BAR: usize = 0;
pub const BAR_SIZE: u64 = 0x8000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x5000;
const END: u64 = 0x6000;

/// Bytes of the common structure.
const COMMON_SIZE: u32 = 0x38;
/// Bytes between the doorbells of two queues.
const NOTIFY_STEP: u32 = 4;

/// Capability ids and types of vendor capabilities.
const VENDOR: u8 = 9;
const MSI_X: u8 = 0x11;
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Bits of the MSI-X control word.
const MSIX_ENABLE: u32 = 1 << 15;
const MSIX_MASK_ALL: u32 = 1 << 14;

/// Bits of the device status.
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 0x40;

/// Features of every device here.
const INDIRECT: u64 = 1 << 28;
const VERSION_1: u64 = 1 << 32;
const ACCESS_PLATFORM: u64 = 1 << 33;
/// What a driver must take: this is no legacy device, and its memory is not all of the guest's.
const REQUIRED: u64 = VERSION_1 | ACCESS_PLATFORM;

/// Bits of the interrupt status register.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Bytes that are moved before the vCPUs have their turn again.
const BUDGET: u64 = 64 << 20;

/// A device on the bus.
#[derive(Debug)]
pub struct Transport {
    config: ConfigSpace,
    msix_capability: usize,
    window_capability: usize,
    device: Box<dyn Device>,
    offered: u64,
    accepted: u64,
    offered_select: u32,
    accepted_select: u32,
    status: u8,
    config_vector: u16,
    queue_select: u16,
    queues: Vec<Queue>,
    /// Doorbells that were rung.
    notified: Vec<bool>,
    isr: u8,
    msix: Msix,
    fault: Option<Fault>,
}

impl Transport {
    pub fn new(device: Box<dyn Device>) -> Transport {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1AF4,
            device: 0x1040 + device.id(),
            revision: 1,
            class: device.class(),
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        config.memory_bar(BAR, BAR_SIZE);
        config.interrupt_pin(1);
        let vectors = device.queues().len() as u16 + 1;
        let mut body = (vectors - 1).to_le_bytes().to_vec();
        body.extend((MSIX_TABLE as u32 | BAR as u32).to_le_bytes());
        body.extend((MSIX_PENDING as u32 | BAR as u32).to_le_bytes());
        let msix_capability = config.capability(MSI_X, &body);
        config.allow(
            msix_capability + 3,
            &[(MSIX_ENABLE >> 8 | MSIX_MASK_ALL >> 8) as u8],
        );
        let mut vendor = |kind: u8, offset: u64, length: u32, more: &[u8]| {
            let mut body = vec![16 + more.len() as u8, kind, BAR as u8, 0, 0, 0];
            body.extend((offset as u32).to_le_bytes());
            body.extend(length.to_le_bytes());
            body.extend(more);
            config.capability(VENDOR, &body)
        };
        vendor(COMMON_CFG, COMMON, COMMON_SIZE, &[]);
        vendor(ISR_CFG, ISR, 1, &[]);
        vendor(DEVICE_CFG, DEVICE, 0x1000, &[]);
        vendor(NOTIFY_CFG, NOTIFY, 0x1000, &NOTIFY_STEP.to_le_bytes());
        let window_capability = vendor(PCI_CFG, 0, 0, &[0; 4]);
        // Software chooses BAR, offset and length of the window.
        config.allow(window_capability + 4, &[0xFF]);
        config.allow(window_capability + 8, &[0xFF; 8]);
        let queues: Vec<Queue> = device.queues().iter().map(|max| Queue::new(*max)).collect();
        Transport {
            config,
            msix_capability,
            window_capability,
            offered: device.features() | REQUIRED | INDIRECT,
            accepted: 0,
            offered_select: 0,
            accepted_select: 0,
            status: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            notified: vec![false; queues.len()],
            queues,
            isr: 0,
            msix: Msix::new(vectors),
            fault: None,
            device,
        }
    }

    pub fn name(&self) -> &'static str {
        self.device.name()
    }
    /// Why the device last stopped, if it ever did.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// A read of 1, 2 or 4 bytes from the configuration space.
    pub fn config_read(&mut self, offset: usize, size: u8) -> u32 {
        match self.window(offset, size) {
            Some(at) => self.load(at, size) as u32,
            None => self.config.read(offset, size),
        }
    }

    pub fn config_write(&mut self, offset: usize, size: u8, value: u32) {
        match self.window(offset, size) {
            Some(at) => self.store(at, size, value.into()),
            None => self.config.write(offset, size, value),
        }
    }

    /// The BAR's offset that an access to the window in the configuration space goes to (4.1.4.9).
    fn window(&self, offset: usize, size: u8) -> Option<u64> {
        let capability = self.window_capability;
        let [bar, at, length] = [(4, 1), (8, 4), (12, 4)]
            .map(|(register, bytes)| self.config.read(capability + register, bytes));
        let meant = offset == capability + 16 && bar as usize == BAR && length == u32::from(size);
        (meant && at.is_multiple_of(length)).then_some(at.into())
    }

    /// Where an address lies in the BAR.
    pub fn offset_of(&self, gpa: u64) -> Option<u64> {
        let offset = gpa.checked_sub(self.config.bar(BAR)?)?;
        (offset < BAR_SIZE).then_some(offset)
    }

    /// A load of 1, 2, 4 or 8 bytes from the BAR.
    pub fn load(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            COMMON..ISR => le(&self.common(), offset as usize, size),
            // Reading acknowledges.
            ISR => std::mem::take(&mut self.isr).into(),
            DEVICE..NOTIFY => le(self.device.config(), (offset - DEVICE) as usize, size),
            MSIX_TABLE..MSIX_PENDING => self.msix.read((offset - MSIX_TABLE) as usize, size),
            MSIX_PENDING..END => {
                let offset = (offset - MSIX_PENDING) as usize;
                self.msix.read_pending(offset, size)
            }
            _ => 0,
        }
    }

    /// A store of 1, 2, 4 or 8 bytes to the BAR.
    pub fn store(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            COMMON..ISR => self.store_common(offset, size, value),
            NOTIFY..MSIX_TABLE => {
                let queue = (offset - NOTIFY) / u64::from(NOTIFY_STEP);
                let queue = queue as usize;
                if self.queues.get(queue).is_some_and(|queue| queue.enabled) {
                    self.notified[queue] = true;
                }
            }
            MSIX_TABLE..MSIX_PENDING => {
                self.msix.write((offset - MSIX_TABLE) as usize, size, value);
            }
            _ => {}
        }
    }

    /// The common structure as it reads now.
    fn common(&self) -> [u8; COMMON_SIZE as usize] {
        let half = |word: u64, select: u32| match select {
            0 => word as u32,
            1 => (word >> 32) as u32,
            _ => 0,
        };
        let none = Queue::new(0);
        let queue = self
            .queues
            .get(usize::from(self.queue_select))
            .unwrap_or(&none);
        let mut bytes = [0; COMMON_SIZE as usize];
        let mut set = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        set(0x00, &self.offered_select.to_le_bytes());
        set(0x04, &half(self.offered, self.offered_select).to_le_bytes());
        set(0x08, &self.accepted_select.to_le_bytes());
        set(
            0x0C,
            &half(self.accepted, self.accepted_select).to_le_bytes(),
        );
        set(0x10, &self.config_vector.to_le_bytes());
        set(0x12, &(self.queues.len() as u16).to_le_bytes());
        set(0x14, &[self.status]);
        set(0x16, &self.queue_select.to_le_bytes());
        set(0x18, &queue.size.to_le_bytes());
        set(0x1A, &queue.vector.to_le_bytes());
        set(0x1C, &u16::from(queue.enabled).to_le_bytes());
        // The doorbell's number is the queue's.
        set(0x1E, &self.queue_select.to_le_bytes());
        set(0x20, &queue.descriptors.to_le_bytes());
        set(0x28, &queue.available.to_le_bytes());
        set(0x30, &queue.used.to_le_bytes());
        bytes
    }

    /// A store of a whole field, or of half an address; nothing else is a field.
    fn store_common(&mut self, offset: u64, size: u8, value: u64) {
        let vectors = self.msix.vectors();
        let vector = match value as u16 {
            vector if vector < vectors => vector,
            _ => NO_VECTOR,
        };
        match (offset, size) {
            (0x00, 4) => self.offered_select = value as u32,
            (0x08, 4) => self.accepted_select = value as u32,
            (0x0C, 4) if self.status & FEATURES_OK == 0 && self.accepted_select < 2 => {
                let shift = 32 * self.accepted_select;
                self.accepted =
                    self.accepted & !(0xFFFF_FFFF << shift) | (value & 0xFFFF_FFFF) << shift;
            }
            (0x10, 2) => self.config_vector = vector,
            (0x14, 1) => self.set_status(value as u8),
            (0x16, 2) => self.queue_select = value as u16,
            _ => self.store_queue(offset, size, value, vector),
        }
    }

    fn store_queue(&mut self, offset: u64, size: u8, value: u64, vector: u16) {
        let number = self.queue_select;
        let Some(queue) = self.queues.get_mut(usize::from(number)) else {
            return;
        };
        let address = match offset & !7 {
            0x20 => &mut queue.descriptors,
            0x28 => &mut queue.available,
            _ => &mut queue.used,
        };
        match (offset, size) {
            (0x1A, 2) => queue.vector = vector,
            _ if queue.enabled => {}
            (0x18, 2) => queue.size = value as u16,
            (0x1C, 2) if value == 1 => {
                queue.enabled = queue.is_sound();
                if !queue.enabled {
                    self.stop(Fault::BadQueue { queue: number });
                }
            }
            (0x20 | 0x28 | 0x30, 8) => *address = value,
            (0x20 | 0x28 | 0x30, 4) => *address = *address >> 32 << 32 | value,
            (0x24 | 0x2C | 0x34, 4) => *address = *address & 0xFFFF_FFFF | value << 32,
            _ => {}
        }
    }

    fn set_status(&mut self, status: u8) {
        if status == 0 {
            return self.reset();
        }
        let mut status = status | self.status;
        let negotiating = self.status & FEATURES_OK == 0;
        let acceptable = self.accepted & !self.offered == 0 && self.accepted & REQUIRED == REQUIRED;
        if negotiating && !acceptable {
            status &= !FEATURES_OK;
        }
        self.status = status;
    }

    /// The device after a reset by its driver; what PCI has is not touched.
    fn reset(&mut self) {
        self.status = 0;
        self.accepted = 0;
        (self.offered_select, self.accepted_select, self.queue_select) = (0, 0, 0);
        self.config_vector = NO_VECTOR;
        self.queues.iter_mut().for_each(Queue::reset);
        self.notified.fill(false);
        self.isr = 0;
        self.msix.forget();
    }

    /// Stops the device: its driver misbehaved.
    fn stop(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.status |= NEEDS_RESET;
        if self.status & DRIVER_OK != 0 {
            self.isr |= ISR_CONFIG;
            self.trigger(self.config_vector);
        }
    }

    fn msix_control(&self) -> u32 {
        self.config.read(self.msix_capability + 2, 2)
    }
    fn uses_msix(&self) -> bool {
        self.msix_control() & MSIX_ENABLE != 0
    }

    fn trigger(&mut self, vector: u16) {
        if self.uses_msix() {
            self.msix.trigger(vector);
        }
    }

    fn runs(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK && self.config.is_master()
    }

    /// Whether a doorbell was rung that is not answered yet.
    pub fn wants_service(&self) -> bool {
        self.runs() && self.notified.contains(&true)
    }

    /// Serves the requests in queues whose doorbells were rung.
    pub fn serve(&mut self, memory: &dyn SharedMemory) {
        let mut budget = BUDGET;
        for index in 0..self.queues.len() {
            if !self.runs() || !self.notified[index] {
                continue;
            }
            if let Err(fault) = self.serve_queue(index, memory, &mut budget) {
                self.notified.fill(false);
                self.stop(fault);
            }
        }
    }

    fn serve_queue(
        &mut self,
        index: usize,
        memory: &dyn SharedMemory,
        budget: &mut u64,
    ) -> Result<(), Fault> {
        let queue = &mut self.queues[index];
        let mut returned = false;
        self.notified[index] = false;
        // A driver may add requests all the while; others have their turn after one queue full.
        for served in 0.. {
            if !self.device.is_ready(index) {
                break;
            }
            if served == queue.size || *budget == 0 {
                self.notified[index] = true;
                break;
            }
            let Some(chain) = queue.pop(memory)? else {
                break;
            };
            let buffers = chain.readable.iter().chain(&chain.writable);
            let bytes: u64 = buffers.map(|buffer| u64::from(buffer.length)).sum();
            *budget = budget.saturating_sub(bytes);
            let written = self.device.serve(index, &chain, memory)?;
            queue.push(memory, chain.head, written)?;
            returned = true;
        }
        if returned && queue.wants_interrupt(memory)? {
            let vector = queue.vector;
            if !self.uses_msix() {
                self.isr |= ISR_QUEUE;
            }
            self.trigger(vector);
        }
        Ok(())
    }

    /// Whether this is a console whose driver runs, so that the user's bytes are for it.
    pub fn is_live_console(&self) -> bool {
        self.device.typed().is_some() && self.runs() && self.queues[0].enabled
    }

    /// Whether the guest has taken all bytes that were typed at this console; `None` if it is no live one.
    pub fn listens(&self) -> Option<bool> {
        self.is_live_console()
            .then(|| self.device.typed() == Some(0))
    }

    /// Bytes typed at the console; gives how many were taken.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = self.device.receive(bytes);
        // The receive queue is the first one; buffers may wait in it.
        self.notified[0] |= taken > 0 && self.queues[0].enabled;
        taken
    }

    /// The next message to send.
    pub fn next_message(&mut self) -> Option<Msi> {
        let sends = self.msix_control() & (MSIX_ENABLE | MSIX_MASK_ALL) == MSIX_ENABLE;
        if !sends || !self.config.is_master() {
            return None;
        }
        self.msix.take()
    }

    /// Whether the interrupt pin is asserted; a function that uses MSI-X has none.
    pub fn intx(&mut self) -> bool {
        let wanted = self.isr != 0 && !self.uses_msix();
        self.config.show_intx(wanted)
    }
}
