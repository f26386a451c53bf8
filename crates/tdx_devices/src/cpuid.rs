//! CPUID leaves 0x40000000 and up, which the guest asks its VMM for.

/// KVM's signature: with it Linux keeps the x2APIC and leaves the MTRRs alone (spec: linux.md 5).
const KVM: &[u8; 12] = b"KVMKVMKVM\0\0\0";

/// EAX, EBX, ECX, EDX.
pub fn hypervisor(leaf: u32) -> [u32; 4] {
    let word = |i: usize| u32::from_le_bytes([KVM[i], KVM[i + 1], KVM[i + 2], KVM[i + 3]]);
    match leaf {
        0x4000_0000 => [0x4000_0001, word(0), word(4), word(8)],
        // No paravirtual feature is offered: kvmclock and its like need memory that a TD does not share.
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_kvms_and_no_feature_is_offered() {
        let [eax, ebx, ecx, edx] = hypervisor(0x4000_0000);
        let name: Vec<u8> = [ebx, ecx, edx]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!((eax, name.as_slice()), (0x4000_0001, &KVM[..]));
        assert_eq!(hypervisor(0x4000_0001), [0; 4]);
    }
}
