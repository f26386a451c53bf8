//! CPUID leaves that a guest asks its VMM for: 0x40000000 and up, and those of the topology.

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

/// Leaves 0xB and 0x1F: one package of single-threaded cores. EDX is the vCPU's x2APIC id in every sub-leaf, by which
/// EDK II's parked processors know themselves (OvmfPkg/TdxDxe).
pub fn topology(subleaf: u32, vcpu: u32, vcpus: u32) -> [u32; 4] {
    /// Level types.
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let number = subleaf & 0xFF;
    match number {
        0 => [0, 1, THREAD << 8 | number, vcpu],
        1 => {
            let shift = vcpus.max(1).next_power_of_two().ilog2();
            [shift, vcpus & 0xFFFF, CORE << 8 | number, vcpu]
        }
        _ => [0, 0, number, vcpu],
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

    #[test]
    fn every_vcpu_learns_its_own_id() {
        for subleaf in [0, 1, 2, u32::MAX] {
            assert_eq!(topology(subleaf, 3, 6)[3], 3);
        }
        assert_eq!(topology(0, 3, 6)[..3], [0, 1, 0x100]);
        assert_eq!(topology(1, 3, 6)[..3], [3, 6, 0x201]);
        assert_eq!(topology(2, 3, 6)[..3], [0, 0, 2]);
    }
}
