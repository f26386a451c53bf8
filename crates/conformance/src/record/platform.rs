//! The header of a recording: the machine as its configuration says.

use tdx_platform::PlatformConfig;
use x86_arch::Gpr;

use super::json;

pub(super) fn header(config: &PlatformConfig, about: &str) -> String {
    let machine = &config.machine;
    let list = |words: Vec<String>| format!("[{}]", words.join(","));
    let range = |range: &std::ops::Range<u64>| {
        json::object([("base", range.start), ("size", range.end - range.start)])
    };
    let cpuid = machine.cpuid.iter().map(|(&(leaf, subleaf), value)| {
        let row = [leaf, subleaf.unwrap_or(u32::MAX)]
            .into_iter()
            .chain(*value);
        list(row.map(|word| format!(r#""{word:#x}""#)).collect())
    });
    let msrs = machine
        .msrs
        .iter()
        .map(|(msr, value)| (format!("{msr:#x}"), *value));
    let lps = machine.lps.iter();
    format!(
        concat!(
            r#"{{"trace":1,"name":"swtdx-run","about":{about},"module":{module},"#,
            r#""platform":{{"lps":{lps},"packages":{packages},"lp_package":{lp_package},"#,
            r#""lp_x2apic":{lp_x2apic},"phys_addr_bits":52,"keyid_bits":{keyid_bits},"#,
            r#""private_keyids":[{first},{last}],"global_keyid":{first},"cmrs":{cmrs},"#,
            r#""seamrr":{seamrr},"cache_wb_sub_blocks":{sub_blocks},"cpuid":{cpuid},"msr":{msrs},"#,
            r#""xsave_size_follows_xcr0":true,"memory_end":"{memory_end:#x}"}},"gpr_default":{defaults}}}"#,
        ),
        about = json::text(about),
        module = json::text(&format!("swtdx, module {}", config.profile.name)),
        lps = machine.lps.len(),
        packages = machine.ram.len(),
        lp_package = list(lps.clone().map(|lp| lp.package.to_string()).collect()),
        lp_x2apic = list(lps.map(|lp| lp.x2apic_id.to_string()).collect()),
        keyid_bits = machine.keyid_bits(),
        first = machine.private_key_ids.0,
        last = machine.private_key_ids.1,
        cmrs = list(machine.cmrs.iter().map(range).collect()),
        seamrr = range(&machine.seamrr),
        sub_blocks = machine.cache_wb_sub_blocks,
        cpuid = list(cpuid.collect()),
        msrs = json::object(msrs),
        memory_end = machine.ram.iter().sum::<u64>(),
        defaults = json::gprs(Gpr::ALL.map(|reg| (reg, 0))),
    )
}
