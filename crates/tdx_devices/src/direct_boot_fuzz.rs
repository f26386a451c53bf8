//! Any bytes as a kernel and what goes with it, for the fuzz target and for `cargo test`.

use std::ops::Range;

use crate::direct_boot::{InitialMemory, Payload, plan};

/// A small bzImage that is accepted: 64-bit entry 0x200 bytes into the part behind its five sectors, preferred at
/// 16 MiB, 1 MiB of memory. For tests, and to be changed by the fuzz target's bytes.
pub fn small_bzimage() -> Vec<u8> {
    let mut kernel = vec![0; 0x1A00];
    let mut put = |at: usize, bytes: &[u8]| kernel[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1F1, &[4]);
    put(0x1F4, &0x100u32.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x20Fu16.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x236, &0x7Fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    kernel
}

/// Lays out what the bytes say: megabytes of memory (16 bits), processors (8 bits), how many changes to a good kernel
/// (8 bits; 255 takes the rest as the kernel itself), each an offset (16 bits) and a byte, then the command line up to
/// a newline, then the initrd.
///
/// # Panics
/// If a layout that is accepted overlaps, or leaves the guest's RAM.
pub fn fuzz_boot_files(bytes: &[u8]) {
    let Some(([low, high, vcpus, changes], mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    let memory = u64::from(u16::from_le_bytes([*low, *high])) << 20;
    let mut kernel = small_bzimage();
    match changes {
        0xFF => (kernel, rest) = (rest.to_vec(), &[]),
        count => {
            for _ in 0..*count {
                let Some(([low, high, value], tail)) = rest.split_first_chunk() else {
                    break;
                };
                let at = usize::from(u16::from_le_bytes([*low, *high]));
                if let Some(byte) = kernel.get_mut(at) {
                    *byte = *value;
                }
                rest = tail;
            }
        }
    }
    let line_end = rest.iter().position(|&byte| byte == b'\n');
    let (line, initrd) = rest.split_at(line_end.unwrap_or(0));
    let command_line = String::from_utf8_lossy(line);
    let payload = Payload {
        kernel: &kernel,
        initrd,
        command_line: &command_line,
    };
    let Ok(plan) = plan(payload, memory, u32::from(*vcpus).max(1)) else {
        return;
    };
    let range = |m: &InitialMemory| m.gpa.raw()..m.gpa.raw() + m.bytes.len() as u64;
    let mut parts: Vec<Range<u64>> = plan.memory.iter().map(range).collect();
    parts.sort_unstable_by_key(|part| part.start);
    let inside = |part: &Range<u64>| {
        let mut ram = plan.ram.iter();
        ram.any(|ram| ram.start <= part.start && part.end <= ram.end)
    };
    assert!(parts.iter().all(inside), "{parts:x?} in {:x?}", plan.ram);
    let apart = parts.windows(2).all(|two| two[0].end <= two[1].start);
    assert!(apart, "{parts:x?} overlap");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A change somewhere in the setup header.
    fn change() -> impl Strategy<Value = [u8; 3]> {
        (0x1F0u16..0x270, any::<u8>()).prop_map(|(at, value)| {
            let [low, high] = at.to_le_bytes();
            [low, high, value]
        })
    }

    proptest! {
        #[test]
        fn any_boot_files_are_refused_or_fit(
            shape in any::<(u8, u8, u8)>(),
            changes in prop::collection::vec(change(), 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let (low, high, vcpus) = shape;
            let mut bytes = vec![low, high & 0x1F, vcpus, changes.len() as u8];
            bytes.extend(changes.into_iter().flatten());
            bytes.extend(rest);
            fuzz_boot_files(&bytes);
            bytes[3] = 0xFF;
            fuzz_boot_files(&bytes);
        }
    }

    #[test]
    fn the_good_kernel_is_good() {
        let kernel = small_bzimage();
        let payload = Payload {
            kernel: &kernel,
            initrd: b"initrd",
            command_line: "quiet",
        };
        plan(payload, 64 << 20, 1).expect("it fits");
        fuzz_boot_files(&[64, 0, 1, 0, b'q', b'\n', 1, 2, 3]);
    }
}
