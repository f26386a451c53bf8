//! What a TD is made of, as the user shapes it: options, a TOML file of the same names, and both printed back.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tdx_host::{CpuidConfig, CpuidValues, HostError, ModuleInfo, TdConfig};
use tdx_platform::Profile;

use super::report::hex;
use crate::cli::Failure;

const MODULE: &str = "1.5-linux";
const REGISTERS: [&str; 4] = ["EAX", "EBX", "ECX", "EDX"];
/// The largest file of parameters: 1 MiB.
const FILE: u64 = 1 << 20;

/// The options; what is not given comes from the file of --td-params, or else is the default.
#[derive(clap::Args, Clone, Default, Debug)]
#[command(next_help_heading = "What the TD is made of")]
pub struct TdArgs {
    /// ATTRIBUTES in hexadecimal [default: 10000000]
    #[arg(long, value_name = "HEX", value_parser = number)]
    pub attributes: Option<u64>,
    /// XFAM in hexadecimal [default: 3]
    #[arg(long, value_name = "HEX", value_parser = number)]
    pub xfam: Option<u64>,
    /// One register of a CPUID leaf that the host may choose, all numbers in hexadecimal; may be repeated
    #[arg(long, value_name = "LEAF[.SUB]:REG=VALUE", value_parser = cpuid)]
    pub cpuid: Vec<Cpuid>,
    /// 48 bytes in hexadecimal for MRCONFIGID
    #[arg(long, value_name = "HEX", value_parser = measurement)]
    pub mrconfigid: Option<Measurement>,
    /// 48 bytes in hexadecimal for MROWNER
    #[arg(long, value_name = "HEX", value_parser = measurement)]
    pub mrowner: Option<Measurement>,
    /// 48 bytes in hexadecimal for MROWNERCONFIG
    #[arg(long, value_name = "HEX", value_parser = measurement)]
    pub mrownerconfig: Option<Measurement>,
    /// Width of guest physical addresses [default: 48]
    #[arg(long, value_name = "48|52", value_parser = gpa_width)]
    pub gpaw: Option<u8>,
    /// Virtual TSC frequency, a multiple of 25000 [default: 1000000]
    #[arg(long, value_name = "KHZ")]
    pub tsc_khz: Option<u32>,
    /// Release of the TDX module: 1.5.01 or 1.5-linux [default: 1.5-linux]
    #[arg(long, value_name = "PROFILE", value_parser = profile)]
    pub module: Option<&'static Profile>,
    /// TOML file of these options under the same names; an option given here counts more
    #[arg(long, value_name = "FILE")]
    pub td_params: Option<PathBuf>,
}

/// One register of one leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpuid {
    leaf: u32,
    subleaf: Option<u32>,
    register: usize,
    value: u32,
}

/// 48 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measurement(pub [u8; 48]);

/// Everything decided. Its TOML form is what --td-params reads.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TdParams {
    #[serde(serialize_with = "as_hex")]
    pub attributes: u64,
    #[serde(serialize_with = "as_hex")]
    pub xfam: u64,
    cpuid: Vec<String>,
    mrconfigid: String,
    mrowner: String,
    mrownerconfig: String,
    pub gpaw: u8,
    pub tsc_khz: u32,
    module: &'static str,
    #[serde(skip)]
    given: TdArgs,
}

impl TdParams {
    /// Reads the file, if one is named, and lays the options over it.
    pub fn new(options: &TdArgs, debug: bool) -> Result<Self, Failure> {
        let mut given = match &options.td_params {
            Some(path) => read(path)?,
            None => TdArgs::default(),
        };
        macro_rules! over {
            ($($field:ident)*) => {$(given.$field = options.$field.or(given.$field);)*};
        }
        over!(attributes xfam mrconfigid mrowner mrownerconfig gpaw tsc_khz module);
        given.cpuid.extend(&options.cpuid);
        let default = TdConfig::default();
        let measurement = |m: Option<Measurement>| hex(&m.map_or([0; 48], |m| m.0));
        let attributes = given.attributes.unwrap_or(default.attributes);
        Ok(Self {
            attributes: attributes | u64::from(debug),
            xfam: given.xfam.unwrap_or(default.xfam),
            cpuid: words(&leaves(&given.cpuid)),
            mrconfigid: measurement(given.mrconfigid),
            mrowner: measurement(given.mrowner),
            mrownerconfig: measurement(given.mrownerconfig),
            gpaw: given.gpaw.unwrap_or(48),
            tsc_khz: given.tsc_khz.unwrap_or(default.tsc_khz),
            module: given.module.map_or(MODULE, |module| module.name),
            given,
        })
    }

    pub fn is_debug(&self) -> bool {
        self.attributes & 1 != 0
    }

    pub fn module(&self) -> Result<&'static Profile, Failure> {
        profile(self.module).map_err(|why| Failure::input(format!("--module: {why}")))
    }

    /// As the host library takes them, once it is known what the module lets a host choose.
    pub fn config(&self, info: &ModuleInfo) -> Result<TdConfig, Failure> {
        let bytes = |given: Option<Measurement>| given.map_or([0; 48], |m| m.0);
        let leaves = leaves(&self.given.cpuid);
        for (&(leaf, subleaf), values) in &leaves {
            allowed(leaf, subleaf, values, &info.cpuid_config).map_err(Failure::input)?;
        }
        Ok(TdConfig {
            attributes: self.attributes,
            xfam: self.xfam,
            gpaw_52: self.gpaw == 52,
            tsc_khz: self.tsc_khz,
            mrconfigid: bytes(self.given.mrconfigid),
            mrowner: bytes(self.given.mrowner),
            mrownerconfig: bytes(self.given.mrownerconfig),
            cpuid: leaves
                .into_iter()
                .map(|((leaf, subleaf), values)| {
                    (leaf, subleaf, values.map(Option::unwrap_or_default))
                })
                .collect(),
            ..TdConfig::default()
        })
    }
}

/// A setting that the module refuses, under the name of its option.
pub fn refused(why: &HostError) -> String {
    let option = match why {
        HostError::Setting { name, .. } => match *name {
            "ATTRIBUTES" => "--attributes",
            "XFAM" => "--xfam",
            "TSC frequency in kHz" => "--tsc-khz",
            "MAX_VCPUS" => "--cpus",
            _ => return why.to_string(),
        },
        _ => return why.to_string(),
    };
    format!("{option}: {why}")
}

type Leaves = BTreeMap<(u32, Option<u32>), [Option<u32>; 4]>;

/// The registers gathered by leaf; the last word on a register counts.
fn leaves(given: &[Cpuid]) -> Leaves {
    let mut leaves = Leaves::new();
    for word in given {
        let values = leaves.entry((word.leaf, word.subleaf)).or_default();
        values[word.register] = Some(word.value);
    }
    leaves
}

fn words(leaves: &Leaves) -> Vec<String> {
    let mut words = Vec::new();
    for (&(leaf, subleaf), values) in leaves {
        for (register, value) in values.iter().enumerate() {
            words.extend(value.map(|value| {
                Cpuid {
                    leaf,
                    subleaf,
                    register,
                    value,
                }
                .to_string()
            }));
        }
    }
    words
}

/// Whether the host may choose these bits.
fn allowed(
    leaf: u32,
    subleaf: Option<u32>,
    values: &[Option<u32>; 4],
    rows: &[CpuidConfig],
) -> Result<(), String> {
    let name = leaf_name(leaf, subleaf);
    let Some(row) = rows
        .iter()
        .find(|row| row.leaf == leaf && row.subleaf == subleaf)
    else {
        let names: Vec<_> = rows
            .iter()
            .map(|row| leaf_name(row.leaf, row.subleaf))
            .collect();
        return Err(format!(
            "--cpuid {name}: not a leaf that this module lets a host choose; these are: {}",
            names.join(", ")
        ));
    };
    let mask: CpuidValues = row.mask;
    for ((register, value), mask) in REGISTERS.iter().zip(values).zip(mask) {
        let outside = value.unwrap_or_default() & !mask;
        if outside != 0 {
            return Err(format!(
                "--cpuid {name}:{register}: bits {outside:#x} are not the host's to choose, only {mask:#x} are"
            ));
        }
    }
    Ok(())
}

fn leaf_name(leaf: u32, subleaf: Option<u32>) -> String {
    match subleaf {
        Some(subleaf) => format!("{leaf:x}.{subleaf:x}"),
        None => format!("{leaf:x}"),
    }
}

impl fmt::Display for Cpuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = leaf_name(self.leaf, self.subleaf);
        write!(f, "{name}:{}={:#x}", REGISTERS[self.register], self.value)
    }
}

fn read(path: &Path) -> Result<TdArgs, Failure> {
    let fail = |why: &dyn fmt::Display| {
        let why = why.to_string();
        let line = why.trim_end().replace('\n', " ");
        Failure::input(format!("--td-params {}: {line}", path.display()))
    };
    let file = fs::metadata(path).map_err(|why| fail(&why))?;
    if !file.is_file() || file.len() > FILE {
        return Err(fail(&"no file of at most 1 MiB"));
    }
    let text = fs::read_to_string(path).map_err(|why| fail(&why))?;
    from_toml(&text).map_err(|why| fail(&why))
}

/// The options from a TOML text.
/// Any bytes as a file of --td-params: for the fuzz target and for `cargo test`.
///
/// # Panics
/// If what is printed of parameters that were read does not read back the same.
pub fn fuzz_td_params(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(params) = from_toml(text).map(|args| TdParams::new(&args, false)) else {
        return;
    };
    let Ok(printed) = params.map(|params| toml::to_string(&params)) else {
        return;
    };
    let printed = printed.expect("parameters can be printed");
    let again = from_toml(&printed).expect("what is printed can be read");
    let again = TdParams::new(&again, false).map(|params| toml::to_string(&params));
    assert_eq!(again.ok(), Some(Ok(printed)));
}

fn from_toml(text: &str) -> Result<TdArgs, String> {
    let table: toml::Table = toml::from_str(text).map_err(|why: toml::de::Error| {
        let at = why.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1;
        format!("line {line}: {}", why.message())
    })?;
    let mut args = TdArgs::default();
    for (key, value) in &table {
        set(&mut args, key, value).map_err(|why| format!("{key}: {why}"))?;
    }
    Ok(args)
}

fn set(args: &mut TdArgs, key: &str, value: &toml::Value) -> Result<(), String> {
    let text = || value.as_str().ok_or("a string is wanted");
    // TOML's own integers are as good as strings of hexadecimal digits.
    let word = || match value.as_integer() {
        Some(n) => u64::try_from(n).map_err(|_| "a number from 0".to_owned()),
        None => number(text()?),
    };
    let integer = || value.as_integer().ok_or("an integer is wanted");
    match key {
        "attributes" => args.attributes = Some(word()?),
        "xfam" => args.xfam = Some(word()?),
        "cpuid" => {
            let list = value.as_array().ok_or("a list of strings is wanted")?;
            let words = list
                .iter()
                .map(|word| cpuid(word.as_str().ok_or("a list of strings is wanted")?));
            args.cpuid = words.collect::<Result<_, String>>()?;
        }
        "mrconfigid" => args.mrconfigid = Some(measurement(text()?)?),
        "mrowner" => args.mrowner = Some(measurement(text()?)?),
        "mrownerconfig" => args.mrownerconfig = Some(measurement(text()?)?),
        "gpaw" => args.gpaw = Some(gpa_width(&integer()?.to_string())?),
        "tsc-khz" => {
            let khz = u32::try_from(integer()?);
            args.tsc_khz = Some(khz.map_err(|_| "a number of 32 bits".to_owned())?);
        }
        "module" => args.module = Some(profile(text()?)?),
        _ => return Err("no such parameter".to_owned()),
    }
    Ok(())
}

/// A number in hexadecimal, with or without 0x.
fn number(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let hex = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hex.then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
        .ok_or_else(|| "up to 16 hexadecimal digits".to_owned())
}

fn cpuid(text: &str) -> Result<Cpuid, String> {
    let parse = || {
        let (name, rest) = text.split_once(':')?;
        let (register, value) = rest.split_once('=')?;
        let (leaf, subleaf) = match name.split_once('.') {
            Some((leaf, subleaf)) => (leaf, Some(subleaf)),
            None => (name, None),
        };
        let word = |text: &str| u32::try_from(number(text).ok()?).ok();
        let subleaf = match subleaf {
            Some(text) => Some(word(text)?),
            None => None,
        };
        Some(Cpuid {
            leaf: word(leaf)?,
            subleaf,
            register: REGISTERS
                .iter()
                .position(|name| name.eq_ignore_ascii_case(register))?,
            value: word(value)?,
        })
    };
    parse().ok_or_else(|| {
        "LEAF[.SUB]:REG=VALUE, numbers in hexadecimal, REG one of EAX, EBX, ECX, EDX".to_owned()
    })
}

fn measurement(text: &str) -> Result<Measurement, String> {
    let mut bytes = [0; 48];
    let hex = text.is_ascii() && text.len() == 96;
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = hex
            .then(|| u8::from_str_radix(&text[at..at + 2], 16).ok())
            .flatten()
            .ok_or("96 hexadecimal digits")?;
    }
    Ok(Measurement(bytes))
}

fn profile(name: &str) -> Result<&'static Profile, String> {
    Profile::by_name(name).ok_or_else(|| {
        let names: Vec<_> = Profile::ALL.iter().map(|profile| profile.name).collect();
        format!("one of {}", names.join(", "))
    })
}

fn gpa_width(text: &str) -> Result<u8, String> {
    match text {
        "48" => Ok(48),
        "52" => Ok(52),
        _ => Err("48 or 52".to_owned()),
    }
}

fn as_hex<S: serde::Serializer>(word: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{word:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_48_bytes() {
        assert_eq!(measurement(&"0f".repeat(48)), Ok(Measurement([15; 48])));
        for text in ["", "0f", &"0g".repeat(48), &"é".repeat(48)] {
            assert!(measurement(text).is_err());
        }
    }

    #[test]
    fn a_cpuid_word_reads_as_it_prints_and_nonsense_is_refused() {
        for text in ["1:EAX=0x806f8", "7.0:EDX=0x0", "80000008:EBX=0xffffffff"] {
            assert_eq!(cpuid(text).unwrap().to_string(), text);
        }
        assert_eq!(cpuid("0x7.0x1:ebx=ff"), cpuid("7.1:EBX=0xFF"));
        for text in [
            "",
            "1",
            "1:EAX",
            "1:EIX=1",
            ":EAX=1",
            "1.:EAX=1",
            "1:EAX=100000000",
            "1:EAX=+1",
        ] {
            assert!(cpuid(text).is_err(), "{text}");
        }
    }

    #[test]
    fn options_count_more_than_the_file_and_what_is_printed_reads_back() {
        let file = "attributes = 0x10000000\nxfam = \"0xe7\"\ngpaw = 52\ncpuid = [\"1:EAX=1\", \"1:EBX=2\"]\n";
        let mut args = from_toml(file).unwrap();
        args.cpuid.extend([cpuid("1:EAX=3").unwrap()]);
        args.mrowner = Some(Measurement([7; 48]));
        let params = TdParams::new(&args, true).unwrap();
        assert_eq!(
            (params.attributes, params.xfam, params.gpaw),
            (0x1000_0001, 0xE7, 52)
        );
        assert_eq!(params.cpuid, ["1:EAX=0x3", "1:EBX=0x2"]);
        let printed = toml::to_string(&params).unwrap();
        let again = TdParams::new(&from_toml(&printed).unwrap(), false).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), printed);
    }

    #[test]
    fn a_wrong_file_is_told_by_line_or_name() {
        for (text, wanted) in [
            ("gpaw = 48\nxfam = = 3", "line 2: "),
            ("gpaw = 49", "gpaw: 48 or 52"),
            ("colour = 1", "colour: no such parameter"),
            ("xfam = -1", "xfam: a number from 0"),
            ("cpuid = [1]", "cpuid: a list of strings"),
            ("mrowner = \"00\"", "mrowner: 96 hexadecimal digits"),
            ("tsc-khz = 99999999999", "tsc-khz: a number of 32 bits"),
        ] {
            let why = from_toml(text).unwrap_err();
            assert!(
                why.starts_with(wanted) && !why.contains('\n'),
                "{text}: {why}"
            );
        }
    }

    #[test]
    fn every_parameter_survives_being_printed() {
        fuzz_td_params(b"attributes = 0x10000000\nxfam = 7\ngpaw = 52\ncpuid = [\"1:EAX=1\"]\ntsc-khz = 2000000");
        fuzz_td_params(b"\xFF");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String, key in "[a-z-]{3,13}", value in "[\\[\"0-9a-fx:=.\\]]{0,20}") {
            fuzz_td_params(text.as_bytes());
            fuzz_td_params(format!("{key} = {value}").as_bytes());
            if let Ok(word) = cpuid(&value) {
                proptest::prop_assert_eq!(cpuid(&word.to_string()), Ok(word));
            }
        }
    }

    #[test]
    fn only_what_the_module_leaves_to_the_host_is_taken() {
        let rows = [CpuidConfig {
            leaf: 7,
            subleaf: Some(0),
            mask: [0, 0xFF, 0, 0],
        }];
        let check =
            |leaf, subleaf, value| allowed(leaf, subleaf, &[None, Some(value), None, None], &rows);
        assert_eq!(check(7, Some(0), 0x81), Ok(()));
        assert!(
            check(7, Some(0), 0x181)
                .unwrap_err()
                .starts_with("--cpuid 7.0:EBX: bits 0x100 ")
        );
        assert!(check(7, None, 0).unwrap_err().ends_with("these are: 7.0"));
    }
}
