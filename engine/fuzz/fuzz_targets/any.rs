//! The target that SERVABLE_FUZZ_TARGET names.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use servable_engine::fuzzing::{Target, TARGETS};

fuzz_target!(|input: &[u8]| (target().run)(input));

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("SERVABLE_FUZZ_TARGET").unwrap_or_default();
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            panic!("SERVABLE_FUZZ_TARGET is {name:?}, and should be one of {names:?}");
        })
    })
}
