//! Register lists as traces write them: objects from a register's name to its value.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use x86_arch::Gpr;

use crate::number::{Hex, Hex128};

/// A general-purpose register other than RSP, which traces never carry in register lists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TraceGpr(pub Gpr);

/// An XMM register, `"xmm0"` to `"xmm15"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TraceXmm(pub usize);

/// Values of some general-purpose registers.
pub type Gprs = Registers<TraceGpr, Hex>;
/// Values of some XMM registers.
pub type Xmms = Registers<TraceXmm, Hex128>;
/// Names under which values of some registers are kept.
pub type Names = Registers<TraceGpr, String>;

/// A list of registers, each at most once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registers<R, V>(pub BTreeMap<R, V>);

impl<R, V> Default for Registers<R, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl Gprs {
    pub fn get(&self, reg: Gpr) -> Option<u64> {
        self.0.get(&TraceGpr(reg)).map(|value| value.0)
    }
    pub fn iter(&self) -> impl Iterator<Item = (Gpr, u64)> + '_ {
        self.0.iter().map(|(reg, value)| (reg.0, value.0))
    }
}

impl Xmms {
    pub fn get(&self, index: usize) -> u128 {
        self.0.get(&TraceXmm(index)).map_or(0, |value| value.0)
    }
}

/// How a register list names its registers.
pub trait RegisterName: Ord + Sized {
    const EXPECTED: &'static str;
    fn parse(name: &str) -> Option<Self>;
}

impl RegisterName for TraceGpr {
    const EXPECTED: &'static str = "a register rax to r15 other than rsp, in small letters";
    fn parse(name: &str) -> Option<TraceGpr> {
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        Gpr::parse(name).filter(|&r| r != Gpr::Rsp).map(TraceGpr)
    }
}

impl RegisterName for TraceXmm {
    const EXPECTED: &'static str = "a register xmm0 to xmm15";
    fn parse(name: &str) -> Option<TraceXmm> {
        (0..16)
            .find(|i| name.strip_prefix("xmm") == Some(&i.to_string()))
            .map(TraceXmm)
    }
}

impl<'de> Deserialize<'de> for TraceGpr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<TraceGpr, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        TraceGpr::parse(&name).ok_or_else(|| {
            D::Error::custom(format_args!("{name:?}: expected {}", TraceGpr::EXPECTED))
        })
    }
}

impl<'de, R: RegisterName, V: Deserialize<'de>> Deserialize<'de> for Registers<R, V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(List(PhantomData))
    }
}

struct List<R, V>(PhantomData<(R, V)>);

impl<'de, R: RegisterName, V: Deserialize<'de>> Visitor<'de> for List<R, V> {
    type Value = Registers<R, V>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object whose keys are each {}", R::EXPECTED)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut list = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let reg = R::parse(&name).ok_or_else(|| {
                A::Error::custom(format_args!("{name:?}: expected {}", R::EXPECTED))
            })?;
            if list.insert(reg, map.next_value()?).is_some() {
                return Err(A::Error::custom(format_args!(
                    "{name} stands twice in the list"
                )));
            }
        }
        Ok(Registers(list))
    }
}
