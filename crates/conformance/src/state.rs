//! A vCPU's state by name, beyond the registers that the format has words for.
//!
//! A guest that runs real code changes its mode, its flags and its MSRs without an exit, and the processor itself
//! delivers #VEs. The key `state` of the act `set`, an extension of the format, carries what the module may look at.

use x86_arch::vmx::{Seg, Vcpu};

/// One field of the state.
pub struct Field {
    pub name: &'static str,
    get: fn(&Vcpu) -> u64,
    set: fn(&mut Vcpu, u64),
}

/// Offset of the processor priority in the virtual-APIC page.
const PPR: usize = 0xA0;

macro_rules! fields {
    ($($name:literal ($($place:tt)*))*) => {
        &[$(Field {
            name: $name,
            get: |vcpu| vcpu.$($place)* as u64,
            set: |vcpu, value| vcpu.$($place)* = value as _,
        },)*]
    };
}

macro_rules! segments {
    ($($name:literal $seg:ident)*) => {
        &[$(
            Field {
                name: concat!($name, ".selector"),
                get: |vcpu| vcpu.regs.segments[Seg::$seg as usize].selector.into(),
                set: |vcpu, value| vcpu.regs.segments[Seg::$seg as usize].selector = value as u16,
            },
            Field {
                name: concat!($name, ".limit"),
                get: |vcpu| vcpu.regs.segments[Seg::$seg as usize].limit.into(),
                set: |vcpu, value| vcpu.regs.segments[Seg::$seg as usize].limit = value as u32,
            },
            Field {
                name: concat!($name, ".access"),
                get: |vcpu| vcpu.regs.segments[Seg::$seg as usize].access.into(),
                set: |vcpu, value| vcpu.regs.segments[Seg::$seg as usize].access = value as u32,
            },
            Field {
                name: concat!($name, ".base"),
                get: |vcpu| vcpu.regs.segments[Seg::$seg as usize].base,
                set: |vcpu, value| vcpu.regs.segments[Seg::$seg as usize].base = value,
            },
        )*]
    };
}

const SEGMENTS: &[Field] = segments! { "es" Es "cs" Cs "ss" Ss "ds" Ds "fs" Fs "gs" Gs };

const OTHERS: &[Field] = fields![
    "rflags" (regs.rflags)
    "cr0" (regs.cr0) "cr2" (regs.cr2) "cr3" (regs.cr3) "cr4" (regs.cr4)
    "dr0" (regs.dr[0]) "dr1" (regs.dr[1]) "dr2" (regs.dr[2]) "dr3" (regs.dr[3])
    "dr6" (regs.dr6) "dr7" (regs.dr7)
    "xcr0" (regs.xcr0) "pkru" (regs.pkru)
    "interruptibility" (regs.interruptibility) "activity" (regs.activity) "pending_debug" (regs.pending_debug)
    "gdtr.base" (regs.gdtr.base) "gdtr.limit" (regs.gdtr.limit)
    "idtr.base" (regs.idtr.base) "idtr.limit" (regs.idtr.limit)
    "tr.selector" (regs.tr.selector) "tr.limit" (regs.tr.limit) "tr.access" (regs.tr.access) "tr.base" (regs.tr.base)
    "ldtr.selector" (regs.ldtr.selector) "ldtr.limit" (regs.ldtr.limit) "ldtr.access" (regs.ldtr.access)
    "ldtr.base" (regs.ldtr.base)
    "mxcsr" (regs.fpu.mxcsr)
    "efer" (regs.msr.efer) "pat" (regs.msr.pat) "star" (regs.msr.star) "lstar" (regs.msr.lstar)
    "cstar" (regs.msr.cstar) "fmask" (regs.msr.fmask) "kernel_gs_base" (regs.msr.kernel_gs_base)
    "tsc_aux" (regs.msr.tsc_aux) "sysenter_cs" (regs.msr.sysenter_cs) "sysenter_esp" (regs.msr.sysenter_esp)
    "sysenter_eip" (regs.msr.sysenter_eip) "debugctl" (regs.msr.debugctl) "spec_ctrl" (regs.msr.spec_ctrl)
    "xss" (regs.msr.xss) "xfd" (regs.msr.xfd) "xfd_err" (regs.msr.xfd_err) "pkrs" (regs.msr.pkrs)
    "s_cet" (regs.msr.s_cet) "ssp" (regs.msr.ssp) "interrupt_ssp_table" (regs.msr.interrupt_ssp_table)
    "perf_global_ctrl" (regs.msr.perf_global_ctrl) "rtit_ctl" (regs.msr.rtit_ctl) "lbr_ctl" (regs.msr.lbr_ctl)
    "uinv" (regs.msr.uinv) "ds_area" (regs.msr.ds_area) "umwait_control" (regs.msr.umwait_control)
    "tsx_ctrl" (regs.msr.tsx_ctrl)
    "interrupt_status" (controls.interrupt_status) "spec_ctrl_shadow" (controls.spec_ctrl_shadow)
    "ve.valid" (ve_info.valid) "ve.reason" (ve_info.exit_reason) "ve.qualification" (ve_info.exit_qualification)
    "ve.gla" (ve_info.guest_linear_address) "ve.gpa" (ve_info.guest_physical_address)
    "ve.eptp_index" (ve_info.eptp_index) "ve.length" (ve_info.instruction_length)
    "ve.info" (ve_info.instruction_info)
];

const PRIORITY: &[Field] = &[Field {
    name: "ppr",
    get: |vcpu| vcpu.apic_page.read(PPR).into(),
    set: |vcpu, value| vcpu.apic_page.write(PPR, value as u32),
}];

impl Field {
    pub fn all() -> impl Iterator<Item = &'static Field> {
        OTHERS.iter().chain(SEGMENTS).chain(PRIORITY)
    }
    pub fn named(name: &str) -> Option<&'static Field> {
        Field::all().find(|field| field.name == name)
    }
    pub fn get(&self, vcpu: &Vcpu) -> u64 {
        (self.get)(vcpu)
    }
    pub fn set(&self, vcpu: &mut Vcpu, value: u64) {
        (self.set)(vcpu, value);
    }
}

impl PartialEq for Field {
    fn eq(&self, other: &Field) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_name_of_its_own_and_reads_what_was_written() {
        let mut names = std::collections::BTreeSet::new();
        let mut vcpu = Vcpu::default();
        for field in Field::all() {
            assert!(names.insert(field.name), "{field:?} twice");
            let before: Vec<u64> = Field::all().map(|f| f.get(&vcpu)).collect();
            field.set(&mut vcpu, 0x1235);
            assert_eq!(field.get(&vcpu), 0x1235, "{field:?}");
            let changed = Field::all()
                .zip(before)
                .filter(|(f, old)| f.get(&vcpu) != *old);
            assert!(changed.count() == 1, "{field:?} is not alone");
        }
        assert!(Field::named("no such").is_none());
    }
}
