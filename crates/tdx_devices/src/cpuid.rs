//! The hypervisor's CPUID leaves: KVM's signature, since Linux then trusts the x2APIC it finds, and no features.

const BASE: u32 = 0x4000_0000;
const FEATURES: u32 = BASE + 1;

pub(crate) fn leaf(leaf: u32) -> [u32; 4] {
    let name = |at: usize| {
        let bytes: [u8; 4] = *b"KVMKVMKVM\0\0\0"[at..]
            .first_chunk()
            .expect("twelve bytes");
        u32::from_le_bytes(bytes)
    };
    match leaf {
        BASE => [FEATURES, name(0), name(4), name(8)],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_signature_reads_as_linux_looks_for_it() {
        let [max, ebx, ecx, edx] = super::leaf(0x4000_0000);
        let bytes = [ebx, ecx, edx].map(u32::to_le_bytes).concat();
        assert_eq!(
            (max, bytes.as_slice()),
            (0x4000_0001, &b"KVMKVMKVM\0\0\0"[..])
        );
        assert_eq!(super::leaf(0x4000_0001), [0; 4]);
    }
}
