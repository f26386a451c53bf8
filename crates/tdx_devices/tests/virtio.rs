//! Each virtio device driven through the board, as a guest does: ports, BAR, rings in shared memory, interrupts.

use std::cell::RefCell;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use tdx_devices::virtio::{self, Block, Console, Entropy, Fault, NoDisk, Storage};
use tdx_devices::{Board, BoardConfig, Interrupt, NotShared, SharedMemory};
use tdx_host::tdvmcall::Services;
use x86_arch::Gpa;

/// Guest memory: shared in this range, private below, nothing above.
const SHARED: Range<u64> = 0x10_0000..0x20_0000;

struct Memory(RefCell<Vec<u8>>);

impl Memory {
    fn place(gpa: u64, length: usize) -> Result<Range<usize>, NotShared> {
        let end = gpa.checked_add(length as u64).ok_or(NotShared)?;
        let inside = SHARED.start <= gpa && end <= SHARED.end;
        let start = (gpa.wrapping_sub(SHARED.start)) as usize;
        inside.then(|| start..start + length).ok_or(NotShared)
    }
    fn get(&self, gpa: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read(gpa, &mut bytes).expect("shared memory");
        bytes
    }
    fn put(&self, gpa: u64, bytes: &[u8]) {
        self.write(gpa, bytes).expect("shared memory");
    }
    fn word(&self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.get(gpa, 2).try_into().expect("two bytes"))
    }
}

impl SharedMemory for Memory {
    fn read(&self, gpa: u64, to: &mut [u8]) -> Result<(), NotShared> {
        let place = Memory::place(gpa, to.len())?;
        to.copy_from_slice(&self.0.borrow()[place]);
        Ok(())
    }
    fn write(&self, gpa: u64, from: &[u8]) -> Result<(), NotShared> {
        let place = Memory::place(gpa, from.len())?;
        self.0.borrow_mut()[place].copy_from_slice(from);
        Ok(())
    }
}

/// Bytes that a test looks at while the device has them.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("one thread").clone()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("one thread").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Storage for Kept {
    fn read_at(&mut self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        to.copy_from_slice(&bytes[offset as usize..][..to.len()]);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().expect("one thread");
        bytes[offset as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        self.write_at(0, b"synced")
    }
}

const QUEUE_SIZE: u16 = 8;
const BAR: u64 = 0x1_C000_0000;
/// Registers of the common structure, which the BAR begins with.
const STATUS: u64 = 0x14;
const NEEDS_RESET: u64 = 0x40;
const VECTOR: u8 = 0x41;

/// A driver of the first device on the bus.
struct Driver {
    board: Board,
    memory: Memory,
}

impl Driver {
    /// Finds the device, places its BAR and lets it work. Its first two queues are set up.
    fn new(device: Box<dyn virtio::Device>) -> Driver {
        let queues = device.queues().len() as u16;
        let mut driver = Driver::before_negotiation(device);
        driver.negotiate(1 << 28 | 1 << 32 | 1 << 33);
        for queue in 0..queues {
            driver.set_up(queue);
        }
        driver.store(STATUS, 1, 0xF);
        driver
    }

    fn before_negotiation(device: Box<dyn virtio::Device>) -> Driver {
        let mut driver = Driver {
            board: Board::new(BoardConfig {
                vcpus: 2,
                memory: 1 << 30,
                tsc_khz: 1_000_000,
                clock: Arc::new(|| 0),
                console: Box::new(io::sink()),
                firmware: None,
                devices: vec![device],
            }),
            memory: Memory(RefCell::new(vec![0; (SHARED.end - SHARED.start) as usize])),
        };
        driver.config_write(0x10, BAR as u32);
        driver.config_write(0x14, (BAR >> 32) as u32);
        driver.config_write(0x04, 0b110);
        driver
    }

    fn negotiate(&mut self, features: u64) {
        self.store(STATUS, 1, 0);
        self.store(STATUS, 1, 3);
        for half in [0, 1] {
            self.store(0x08, 4, half);
            self.store(0x0C, 4, features >> (32 * half) & 0xFFFF_FFFF);
        }
        self.store(STATUS, 1, 0xB);
    }

    fn set_up(&mut self, queue: u16) {
        let at = rings(queue);
        self.store(0x16, 2, queue.into());
        self.store(0x18, 2, QUEUE_SIZE.into());
        self.store(0x1A, 2, u64::from(queue) + 1);
        for (register, ring) in [0x20, 0x28, 0x30].into_iter().zip(at) {
            self.store(register, 4, ring & 0xFFFF_FFFF);
            self.store(register + 4, 4, ring >> 32);
        }
        self.store(0x1C, 2, 1);
    }

    fn config_read(&mut self, register: u32) -> u32 {
        self.board
            .io_write(0, 0xCF8, 4, 1 << 31 | 1 << 11 | register);
        self.board.io_read(0, 0xCFC, 4)
    }
    fn config_write(&mut self, register: u32, value: u32) {
        self.board
            .io_write(0, 0xCF8, 4, 1 << 31 | 1 << 11 | register);
        self.board.io_write(0, 0xCFC, 4, value);
    }
    fn load(&mut self, offset: u64, size: u8) -> u64 {
        self.board.mmio_read(0, Gpa::new(BAR + offset), size)
    }
    fn store(&mut self, offset: u64, size: u8, value: u64) {
        self.board
            .mmio_write(0, Gpa::new(BAR + offset), size, value);
    }

    /// The offset of the MSI-X capability, found by its id.
    fn msix(&mut self) -> u32 {
        let mut at = self.config_read(0x34) & 0xFF;
        while self.config_read(at) & 0xFF != 0x11 {
            at = self.config_read(at) >> 8 & 0xFF;
            assert_ne!(at, 0, "there is an MSI-X capability");
        }
        at
    }

    /// Turns MSI-X on: vector n of the table to vCPU 1 as VECTOR + n.
    fn use_msix(&mut self) {
        let at = self.msix();
        for entry in 0..3 {
            let table = 0x4000 + 16 * entry;
            self.store(table, 8, 0xFEE0_1000);
            self.store(table + 8, 8, u64::from(VECTOR) + entry);
        }
        self.config_write(at, 1 << 31);
    }

    /// Makes a chain of descriptors from entry 0 on; a buffer is address, length, and whether the device writes it.
    fn chain(&self, queue: u16, buffers: &[(u64, u32, bool)]) {
        for (index, &(gpa, length, write)) in (0u16..).zip(buffers) {
            let last = usize::from(index) + 1 == buffers.len();
            let flags = u16::from(!last) | u16::from(write) << 1;
            self.descriptor(queue, index, gpa, length, flags, index + 1);
        }
    }
    fn descriptor(&self, queue: u16, index: u16, gpa: u64, length: u32, flags: u16, next: u16) {
        let [table, ..] = rings(queue);
        let at = table + 16 * u64::from(index);
        self.memory.put(at, &gpa.to_le_bytes());
        self.memory.put(at + 8, &length.to_le_bytes());
        self.memory.put(at + 12, &flags.to_le_bytes());
        self.memory.put(at + 14, &next.to_le_bytes());
    }

    /// Offers the chain that begins at descriptor 0, rings the doorbell and lets the device serve.
    fn offer(&mut self, queue: u16) {
        let [_, available, _] = rings(queue);
        let index = self.memory.word(available + 2);
        let slot = available + 4 + 2 * u64::from(index % QUEUE_SIZE);
        self.memory.put(slot, &0u16.to_le_bytes());
        let index = index.wrapping_add(1);
        self.memory.put(available + 2, &index.to_le_bytes());
        self.ring(queue);
    }
    fn ring(&mut self, queue: u16) {
        self.store(0x3000 + 4 * u64::from(queue), 2, queue.into());
        self.serve();
    }
    fn serve(&mut self) {
        assert!(self.board.wants_owner());
        self.board.serve_dma(&self.memory);
    }

    /// How many requests of the queue came back, and the bytes written for the last one.
    fn used(&self, queue: u16) -> (u16, u32) {
        let [_, _, used] = rings(queue);
        let index = self.memory.word(used + 2);
        let slot = used + 4 + 8 * u64::from(index.wrapping_sub(1) % QUEUE_SIZE);
        let length = self.memory.get(slot + 4, 4);
        (
            index,
            u32::from_le_bytes(length.try_into().expect("four bytes")),
        )
    }

    fn fault(&mut self) -> Option<Fault> {
        let stopped = self.load(STATUS, 1) & NEEDS_RESET != 0;
        let fault = self.board.faults().next().map(|(_, _, why)| why);
        assert_eq!(stopped, fault.is_some());
        fault
    }
}

/// Descriptors, available ring, used ring of a queue.
fn rings(queue: u16) -> [u64; 3] {
    let at = SHARED.start + 0x1_0000 * u64::from(queue);
    [at, at + 0x1000, at + 0x2000]
}

const HEADER: u64 = SHARED.start + 0x4_0000;
const DATA: u64 = SHARED.start + 0x5_0000;
const BLOCK_STATUS: u64 = SHARED.start + 0x6_0000;

fn disk(bytes: Vec<u8>, read_only: bool) -> (Kept, Box<Block>) {
    let kept = Kept(Arc::new(Mutex::new(bytes)));
    let length = kept.bytes().len() as u64;
    let block = Block::new(Box::new(kept.clone()), length, read_only, "disk-id");
    (kept, Box::new(block.expect("whole sectors")))
}

/// A request to a disk; gives its status and how many bytes were written in all.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: u32, to_device: bool) -> (u8, u32) {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    driver.memory.put(HEADER, &header);
    driver.memory.put(BLOCK_STATUS, &[0xEE]);
    driver.chain(
        0,
        &[
            // The header in two parts: a device must not count on its buffers' borders.
            (HEADER, 10, false),
            (HEADER + 10, 6, false),
            (DATA, data, !to_device),
            (BLOCK_STATUS, 1, true),
        ],
    );
    let before = driver.used(0).0;
    driver.offer(0);
    let (index, written) = driver.used(0);
    assert_eq!(index, before.wrapping_add(1), "the request came back");
    (driver.memory.get(BLOCK_STATUS, 1)[0], written)
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

#[test]
fn a_disk_reads_writes_flushes_and_tells_its_id() {
    let content: Vec<u8> = (0..0x2_0000).map(|i| (i / 512 + i) as u8).collect();
    let (kept, block) = disk(content.clone(), false);
    let mut driver = Driver::new(block);
    assert_eq!(driver.load(0x2000, 8), 0x100, "capacity in sectors");
    assert_eq!(request(&mut driver, IN, 3, 1024, false), (0, 1025));
    assert_eq!(driver.memory.get(DATA, 1024), content[3 * 512..][..1024]);
    // More than the device moves at a time.
    assert_eq!(request(&mut driver, IN, 0, 0x1_0000, false), (0, 0x1_0001));
    driver.memory.put(DATA, &[0xAB; 512]);
    assert_eq!(request(&mut driver, OUT, 255, 512, true), (0, 1));
    assert_eq!(kept.bytes()[255 * 512..], [0xAB; 512]);
    assert_eq!(request(&mut driver, FLUSH, 0, 0, true), (0, 1));
    assert_eq!(&kept.bytes()[..6], b"synced");
    assert_eq!(request(&mut driver, GET_ID, 0, 20, false), (0, 21));
    assert_eq!(&driver.memory.get(DATA, 8), b"disk-id\0");
    assert_eq!(request(&mut driver, 11, 0, 512, true), (2, 1), "discard");
    for (kind, sector, length) in [
        (IN, 256, 512),
        (IN, 255, 1024),
        (IN, u64::MAX, 512),
        (IN, 0, 100),
        (OUT, 256, 512),
    ] {
        let (status, _) = request(&mut driver, kind, sector, length, kind == OUT);
        assert_eq!(status, 1, "{kind}, {sector}, {length}");
    }
    assert_eq!(driver.fault(), None);
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let (kept, block) = disk(vec![7; 1024], true);
    let mut driver = Driver::new(block);
    assert_eq!(driver.load(0x04, 4) & 1 << 5, 1 << 5, "VIRTIO_BLK_F_RO");
    assert_eq!(request(&mut driver, OUT, 0, 512, true), (1, 1));
    assert_eq!(kept.bytes(), [7; 1024]);
}

#[test]
fn a_file_that_cannot_be_a_disk_is_told_why() {
    let new = |length| Block::new(Box::new(Kept::default()), length, false, "");
    assert!(matches!(new(0), Err(NoDisk::Empty)));
    let odd = new(1000).expect_err("1000 bytes");
    assert_eq!(
        odd.to_string(),
        "1000 bytes are no whole number of 512-byte sectors"
    );
}

#[test]
fn data_in_private_memory_or_nowhere_stops_the_device_and_is_never_read() {
    for gpa in [0x1000, SHARED.start - 256, SHARED.end - 256, u64::MAX - 100] {
        for (kind, device_writes) in [(OUT, false), (IN, true)] {
            let (kept, block) = disk(vec![7; 1024], false);
            let mut driver = Driver::new(block);
            let mut header = kind.to_le_bytes().to_vec();
            header.extend([0; 12]);
            driver.memory.put(HEADER, &header);
            let buffers = [
                (HEADER, 16, false),
                (gpa, 512, device_writes),
                (BLOCK_STATUS, 1, true),
            ];
            driver.chain(0, &buffers);
            driver.offer(0);
            let fault = driver.fault().expect("the device stopped");
            assert!(matches!(fault, Fault::NotShared { .. }), "{fault}");
            assert_eq!(driver.used(0).0, 0, "nothing came back");
            assert_eq!(kept.bytes(), [7; 1024]);
            // It serves nothing until its driver resets it.
            driver.store(0x3000, 2, 0);
            assert!(!driver.board.wants_owner());
            driver.store(STATUS, 1, 0);
            assert_eq!(driver.load(STATUS, 1), 0);
        }
    }
}

#[test]
fn lies_in_the_rings_stop_the_device() {
    let lie = |name: &str, tell: &dyn Fn(&Driver)| {
        let mut driver = Driver::new(Box::new(Entropy::new(1)));
        driver.chain(0, &[(DATA, 16, true)]);
        tell(&driver);
        driver.offer(0);
        driver
            .fault()
            .unwrap_or_else(|| panic!("{name} was believed"))
    };
    let [table, available, _] = rings(0);
    let fault = lie("an index far ahead", &|d| {
        d.memory.put(available + 2, &100u16.to_le_bytes());
    });
    assert_eq!(
        fault,
        Fault::AvailableIndex {
            ahead: 101,
            size: 8
        }
    );
    let fault = lie("a loop", &|d| {
        d.descriptor(0, 0, DATA, 16, 3, 1);
        d.descriptor(0, 1, DATA, 16, 3, 0);
    });
    assert_eq!(fault, Fault::EndlessChain);
    let fault = lie("a descriptor outside the table", &|d| {
        d.descriptor(0, 0, DATA, 16, 3, 8);
    });
    assert_eq!(fault, Fault::NoDescriptor { index: 8, size: 8 });
    let fault = lie("a readable buffer behind a writable one", &|d| {
        d.descriptor(0, 0, DATA, 16, 3, 1);
        d.descriptor(0, 1, DATA, 16, 0, 0);
    });
    assert_eq!(fault, Fault::ReadAfterWrite);
    let fault = lie("8 GiB", &|d| {
        d.descriptor(0, 0, DATA, u32::MAX, 3, 1);
        d.descriptor(0, 1, DATA, u32::MAX, 2, 0);
    });
    assert_eq!(fault, Fault::HugeChain);
    for (length, flags) in [(0, 4), (17, 4), (16 * 9, 4), (32, 5)] {
        let fault = lie("a malformed indirect table", &|d| {
            d.descriptor(0, 0, DATA, length, flags, 1);
        });
        assert_eq!(fault, Fault::BadIndirect { length });
    }
    let fault = lie("an indirect table in itself", &|d| {
        d.descriptor(0, 0, table, 16, 4, 0);
    });
    assert_eq!(fault, Fault::BadIndirect { length: 16 });
    let fault = lie("a descriptor table in private memory", &|d| {
        d.descriptor(0, 0, 0x1000, 16, 4, 0);
    });
    assert_eq!(
        fault,
        Fault::NotShared {
            gpa: 0x1000,
            length: 16
        }
    );
}

#[test]
fn a_queue_that_no_queue_can_be_is_refused_when_it_is_enabled() {
    for (register, size, value) in [
        (0x18, 2, 0),
        (0x18, 2, 3),
        (0x18, 2, 1 << 10),
        (0x20, 8, 8),
        (0x28, 8, 1),
        (0x30, 8, 2),
        (0x20, 8, u64::MAX - 15),
    ] {
        let mut driver = Driver::before_negotiation(Box::new(Entropy::new(1)));
        driver.negotiate(1 << 32 | 1 << 33);
        driver.store(register, size, value);
        driver.store(0x1C, 2, 1);
        assert_eq!(driver.load(0x1C, 2), 0);
        assert_eq!(driver.fault(), Some(Fault::BadQueue { queue: 0 }));
    }
}

#[test]
fn an_indirect_table_is_a_chain_too() {
    let mut driver = Driver::new(Box::new(Entropy::new(1)));
    let table = DATA + 0x1000;
    for (entry, (gpa, flags)) in [(DATA, 3u16), (DATA + 100, 2)].into_iter().enumerate() {
        let at = table + 16 * entry as u64;
        driver.memory.put(at, &gpa.to_le_bytes());
        driver.memory.put(at + 8, &10u32.to_le_bytes());
        driver.memory.put(at + 12, &flags.to_le_bytes());
        driver.memory.put(at + 14, &1u16.to_le_bytes());
    }
    driver.descriptor(0, 0, table, 32, 4, 0);
    driver.offer(0);
    assert_eq!((driver.fault(), driver.used(0)), (None, (1, 20)));
    assert_ne!(driver.memory.get(DATA + 100, 10), [0; 10]);
}

#[test]
fn random_numbers_come_from_the_seed() {
    let numbers = |seed| {
        let mut driver = Driver::new(Box::new(Entropy::new(seed)));
        driver.chain(0, &[(DATA, 5, true), (DATA + 5, 95, true)]);
        driver.offer(0);
        assert_eq!(driver.used(0), (1, 100));
        let first = driver.memory.get(DATA, 100);
        driver.offer(0);
        assert_ne!(driver.memory.get(DATA, 100), first);
        first
    };
    assert_eq!(numbers(1), numbers(1));
    assert_ne!(numbers(1), numbers(2));
    // A request gets 4096 bytes at most.
    let mut driver = Driver::new(Box::new(Entropy::new(1)));
    driver.chain(0, &[(DATA, 0x1_0000, true)]);
    driver.offer(0);
    assert_eq!(driver.used(0), (1, 4096));
}

#[test]
fn a_console_prints_and_takes_what_is_typed_when_it_has_room() {
    let kept = Kept::default();
    let mut driver = Driver::before_negotiation(Box::new(Console::new(Box::new(kept.clone()))));
    assert_eq!(driver.board.type_bytes(b"early"), 5, "to the serial port");
    driver.negotiate(1 << 32 | 1 << 33);
    driver.set_up(0);
    driver.set_up(1);
    driver.store(STATUS, 1, 0xF);
    assert!(driver.board.listens());

    driver.memory.put(DATA, b"hello");
    driver.chain(1, &[(DATA, 5, false)]);
    driver.offer(1);
    assert_eq!(kept.bytes(), b"hello");
    assert_eq!(driver.used(1), (1, 0));

    // Typed before there is a buffer: it waits. Then it comes in pieces.
    assert_eq!(driver.board.type_bytes(b"typed"), 5);
    assert!(!driver.board.listens());
    driver.serve();
    assert_eq!(driver.used(0).0, 0);
    driver.chain(0, &[(DATA, 3, true)]);
    driver.offer(0);
    assert_eq!(driver.used(0), (1, 3));
    assert_eq!(driver.memory.get(DATA, 3), b"typ");
    driver.offer(0);
    assert_eq!(driver.used(0), (2, 2));
    assert!(driver.board.listens());
    // No room is made for what nobody takes.
    assert_eq!(driver.board.type_bytes(&[b'x'; 10_000]), 4096);
    assert_eq!(driver.board.type_bytes(b"y"), 0);

    driver.chain(1, &[(DATA, 0x9_0000, false), (DATA, 0x9_0000, false)]);
    driver.offer(1);
    assert_eq!(driver.fault(), Some(Fault::LongRequest));
}

#[test]
fn only_a_driver_that_knows_shared_memory_gets_features_ok() {
    for (features, accepted) in [
        (1 << 32 | 1 << 33, true),
        (1 << 32, false),
        (1 << 33, false),
        (1 << 32 | 1 << 33 | 1 << 34, false),
    ] {
        let mut driver = Driver::before_negotiation(Box::new(Entropy::new(1)));
        driver.negotiate(features);
        let ok = driver.load(STATUS, 1) & 8 != 0;
        assert_eq!(ok, accepted, "{features:#x}");
    }
}

#[test]
fn interrupts_come_as_messages_or_through_the_io_apic() {
    let mut driver = Driver::new(Box::new(Entropy::new(1)));
    driver.use_msix();
    driver.chain(0, &[(DATA, 8, true)]);
    driver.offer(0);
    let vector = VECTOR + 1;
    let expected = Interrupt::Vector { vcpu: 1, vector };
    assert_eq!(driver.board.next_interrupt(), Some(expected));
    assert_eq!(driver.board.next_interrupt(), None);
    // Masked, the message waits.
    driver.store(0x4000 + 28, 4, 1);
    driver.offer(0);
    assert_eq!(driver.board.next_interrupt(), None);
    assert_eq!(driver.load(0x5000, 4), 2);
    driver.store(0x4000 + 28, 4, 0);
    assert_eq!(driver.board.next_interrupt(), Some(expected));
    // The driver wants none.
    let [_, available, _] = rings(0);
    driver.memory.put(available, &1u16.to_le_bytes());
    driver.offer(0);
    assert_eq!(driver.board.next_interrupt(), None);
    driver.memory.put(available, &0u16.to_le_bytes());

    // Without MSI-X: INTA of device 1 is input 17, level-triggered, until the status is read.
    let at = driver.msix();
    driver.config_write(at, 0);
    let ioapic = |driver: &mut Driver, register: u64, value: u64| {
        driver
            .board
            .mmio_write(0, Gpa::new(0xFEC0_0000), 4, register);
        driver.board.mmio_write(0, Gpa::new(0xFEC0_0010), 4, value);
    };
    ioapic(&mut driver, 0x10 + 2 * 17, 0x8000 | 0x51);
    driver.offer(0);
    let pin = Interrupt::Vector {
        vcpu: 0,
        vector: 0x51,
    };
    assert_eq!(driver.board.next_interrupt(), Some(pin));
    driver.board.mmio_write(0, Gpa::new(0xFEC0_0040), 4, 0x51);
    assert_eq!(driver.board.next_interrupt(), Some(pin), "still asserted");
    assert_eq!(driver.load(0x1000, 1), 1);
    assert_eq!(driver.load(0x1000, 1), 0, "reading acknowledged it");
    driver.board.mmio_write(0, Gpa::new(0xFEC0_0040), 4, 0x51);
    assert_eq!(driver.board.next_interrupt(), None);
}

#[test]
fn the_bar_answers_every_size_and_offset_and_the_window_shows_it_too() {
    let mut driver = Driver::before_negotiation(Box::new(Entropy::new(1)));
    driver.config_write(0x10, u32::MAX);
    assert_eq!(driver.config_read(0x10), 0xFFFF_8004, "32 KiB, 64-bit");
    driver.config_write(0x10, BAR as u32);
    for offset in 0..0x8000 {
        for size in [1u8, 2, 4, 8] {
            for value in [0, u64::MAX] {
                driver.store(offset, size, value);
            }
            driver.load(offset, size);
        }
    }
    // The last capability is the window: BAR, offset and length, then the data.
    let (mut at, mut window) = (driver.config_read(0x34) & 0xFF, 0);
    while at != 0 {
        let header = driver.config_read(at);
        if header & 0xFF == 9 && header >> 24 == 5 {
            window = at;
        }
        at = header >> 8 & 0xFF;
    }
    driver.config_write(window + 4, 0);
    driver.config_write(window + 8, 0x12);
    driver.config_write(window + 12, 2);
    driver
        .board
        .io_write(0, 0xCF8, 4, 1 << 31 | 1 << 11 | (window + 16));
    assert_eq!(driver.board.io_read(0, 0xCFC, 2), 1, "number of queues");
}
