//! TDH.VP.INIT: a vCPU gets its state and its index (spec: host-td.md 5.3).
//!
//! Version 1, of releases after 1.5.01, gives it its x2APIC id as well, and holds the TDR exclusively for it.

use super::Row;
use crate::call::{Call, LeafResult};
use crate::cpuid;
use crate::guest::initial::Initial;
use crate::machine::Machine;
use crate::msr::IA32_TSC_ADJUST;
use crate::pamt::Want;
use crate::refusal::Refusal;
use crate::state::{OpStates, VcpuState};
use core::sync::atomic::Ordering;
use tdx_abi::{HostLeaf, OperandId, Status};
use x86_arch::Gpr;

pub const ROW: Row = Row {
    op_states: OpStates::row([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    // R8 (x2APIC id) in version 1 only, which newer profiles have.
    inputs: &[Gpr::Rcx, Gpr::Rdx, Gpr::R8],
    ..Row::new(HostLeaf::VP_INIT)
};

pub fn run<M: Machine>(call: &mut Call<'_, M>) -> LeafResult {
    let module = call.module;
    if call.version() > module.profile.vp_init_version {
        return Err(Refusal::Invalid(OperandId::RAX).into());
    }
    let mut vp = call.tdvpr(Gpr::Rcx, Want::Exclusive)?;
    let td = match call.version() {
        0 => call.tdr_of(vp.owner())?,
        _ => module.implicit_tdr_alone(vp.owner(), &call.lp_state.order)?,
    };
    let _op_state = call.td_state(&td, &ROW)?;
    if vp.pages.len() < td.config.tdvps_pages() {
        return Err(Status::TDCX_NUM_INCORRECT.into());
    }
    if vp.state() != VcpuState::Uninitialized {
        return Err(Status::VCPU_STATE_INCORRECT.into());
    }
    let index = td.num_vcpus.fetch_add(1, Ordering::AcqRel);
    if index >= td.config.max_vcpus {
        td.num_vcpus.fetch_sub(1, Ordering::AcqRel);
        return Err(Status::MAX_VCPUS_EXCEEDED.into());
    }
    let id = call.get(Gpr::R8);
    match call.version() {
        0 => td.topology.unconfigure(&call.sticky()),
        _ if id >> 32 != 0 => {
            td.num_vcpus.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::Invalid(OperandId::R8).into());
        }
        // NUM_VCPUS stays incremented.
        _ if !td.topology.set(&call.sticky(), index, id as u32) => {
            return Err(Status::X2APIC_ID_NOT_UNIQUE.with_details(id as u32).into());
        }
        _ => {}
    }
    let sys = module.sys()?;
    // NUM_VCPUS stays incremented if this refuses.
    if call.machine().read_msr(call.lp, IA32_TSC_ADJUST) != sys.msrs.get(IA32_TSC_ADJUST) {
        return Err(Status::INCONSISTENT_MSR.with_details(IA32_TSC_ADJUST).into());
    }

    let commit = call.commit();
    let fms_row = cpuid::find(1, 0).unwrap_or(0);
    let pages = vp.pages.clone();
    let initial = Initial {
        sys,
        vmx: &sys.vmx,
        td: &td,
        pages: &pages,
        index,
        argument: call.get(Gpr::Rdx),
        fms: sys.cpuid.finished()[fms_row][cpuid::EAX],
        tsc: call.machine().tsc(call.lp),
    };
    initial.apply(vp.data_mut());
    vp.set_state(&commit, VcpuState::Ready);
    if let Err(_already) = call.take_vcpu(&td, &vp, &commit) {
        // An uninitialised vCPU is on no processor.
        debug_assert!(false, "a vCPU was associated before VP.INIT");
    }
    Ok(commit.done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profile;
    use crate::testing::World;

    /// A vCPU that TDH.VP.INIT has not seen, of a module of this profile.
    fn vcpu_before_init(profile: Profile) -> (World, u64) {
        let mut world = World::ready(1);
        world.module.profile = profile;
        let td = world.td(33);
        let tdvpr = world.vcpu_before_init(td);
        (world, tdvpr)
    }

    #[test]
    fn version_1_is_refused_by_1_5_01_and_taken_by_a_newer_profile() {
        for (profile, expected) in [
            (Profile::V1_5_01, Status::OPERAND_INVALID.with_operand(OperandId::RAX)),
            (Profile::V1_5_LINUX, Status::SUCCESS),
        ] {
            let (world, tdvpr) = vcpu_before_init(profile);
            let regs = [(Gpr::Rcx, tdvpr), (Gpr::Rdx, 0), (Gpr::R8, 7)];
            let (status, _) = world.call_version(0, HostLeaf::VP_INIT, 1, &regs);
            assert_eq!(status, expected);
        }
    }

    #[test]
    fn an_x2apic_id_has_32_bits() {
        let (world, tdvpr) = vcpu_before_init(Profile::V1_5_LINUX);
        let before = world.module.fingerprint();
        let regs = [(Gpr::Rcx, tdvpr), (Gpr::Rdx, 0), (Gpr::R8, 1 << 32)];
        let (status, _) = world.call_version(0, HostLeaf::VP_INIT, 1, &regs);
        assert_eq!(status, Status::OPERAND_INVALID.with_operand(OperandId::R8));
        assert_eq!(world.module.fingerprint(), before);
    }

    #[test]
    fn an_x2apic_id_belongs_to_one_vcpu_and_a_refused_one_costs_an_index() {
        let mut world = World::ready(1);
        world.module.profile = Profile::V1_5_LINUX;
        let td = world.td(33);
        let mut init = |id| {
            let tdvpr = world.vcpu_before_init(td);
            let regs = [(Gpr::Rcx, tdvpr), (Gpr::Rdx, 0), (Gpr::R8, id)];
            world.call_version(0, HostLeaf::VP_INIT, 1, &regs).0
        };
        assert_eq!(init(7), Status::SUCCESS);
        assert_eq!(init(7), Status::X2APIC_ID_NOT_UNIQUE.with_details(7));
        // The index that was lost has the id 0.
        assert_eq!(init(0), Status::X2APIC_ID_NOT_UNIQUE);
        assert_eq!(init(8), Status::SUCCESS);
        assert_eq!(init(9), Status::MAX_VCPUS_EXCEEDED);
    }

    #[test]
    fn a_vcpu_without_an_id_leaves_the_topology_unconfigured() {
        /// TOPOLOGY_ENUM_CONFIGURED.
        const CONFIGURED: u64 = 0x9100_0000_0000_0019;
        let mut world = World::ready(1);
        world.module.profile = Profile::V1_5_LINUX;
        let td = world.td(33);
        let read = [(Gpr::Rcx, td.tdr), (Gpr::Rdx, CONFIGURED)];
        for (version, configured) in [(1, 1), (0, 0), (1, 0)] {
            let tdvpr = world.vcpu_before_init(td);
            let regs = [(Gpr::Rcx, tdvpr), (Gpr::Rdx, 0), (Gpr::R8, tdvpr >> 12)];
            let (status, _) = world.call_version(0, HostLeaf::VP_INIT, version, &regs);
            assert_eq!(status, Status::SUCCESS);
            assert_eq!(world.ok(0, HostLeaf::MNG_RD, &read)[Gpr::R8], configured);
        }
        world.module.profile = Profile::V1_5_01;
        let td = world.td(34);
        let read = [(Gpr::Rcx, td.tdr), (Gpr::Rdx, CONFIGURED)];
        let status = world.call(0, HostLeaf::MNG_RD, &read);
        assert_eq!(status, Status::METADATA_FIELD_ID_INCORRECT);
    }

    #[test]
    fn a_refused_tsc_adjust_costs_an_index() {
        let (world, tdvpr) = vcpu_before_init(Profile::V1_5_01);
        let regs = [(Gpr::Rcx, tdvpr), (Gpr::Rdx, 0)];
        world.machine().set_msr(0, IA32_TSC_ADJUST, 1);
        let refused = Status::INCONSISTENT_MSR.with_details(IA32_TSC_ADJUST);
        assert_eq!(world.call(0, HostLeaf::VP_INIT, &regs), refused);
        world.machine().set_msr(0, IA32_TSC_ADJUST, 0);
        world.ok(0, HostLeaf::VP_INIT, &regs);
        let again = world.call(0, HostLeaf::VP_INIT, &regs);
        assert_eq!(again, Status::VCPU_STATE_INCORRECT);
    }
}
