//! The same tests with less of the device: WebGPU's default limits, and none of the optional features. In processes of their
//! own, for a process has one device.

use crate::common::REQUIRE;
use std::process::Command;

/// Set in a process that this module started: it is to start no other.
const INNER: &str = "RUGOSA_TEST_INNER";

/// Runs the kernels' tests whose names contain one of `filters` with these variables set.
fn again(environment: &[(&str, &str)], filters: &[&str]) {
    if std::env::var_os(INNER).is_some() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let filters: Vec<String> = filters.iter().map(|f| format!("kernels::{f}")).collect();
    let output = command.args(&filters).env(INNER, "1").envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "with {environment:?}:\n{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("running 0 tests"), "no test is called {filters:?}");
}

/// Of each kernel its quickest tests; `attention` itself compiles every variant within these limits, and the runs of
/// `tests/parity` train within them.
#[test]
fn within_default_limits() {
    let filters =
        ["attention::store", "dropout", "elementwise", "embedding", "in_weight::there", "loss", "matmul::products"];
    again(&[("RUGOSA_LIMITS", "default")], &[&filters[..], &["norm", "optimizer", "reduce", "rope", "topk"]].concat());
}

/// Operands of software renderers that come from buffers, as those too large for an image do.
#[test]
fn without_images() {
    let filters = ["matmul::products", "matmul::the_fused", "attention::forward", "sparse::every_way"];
    again(&[("RUGOSA_DISABLE", "images")], &filters);
}

/// Fast paths are of products alone.
#[test]
fn without_optional_features() {
    let filters = ["matmul::products", "matmul::the_fused", "matmul::sums"];
    again(&[("RUGOSA_DISABLE", "f16,subgroup,coop,timestamps,images")], &filters);
}

/// What a test of matrix units leaves out where there are none fails where they are required; a name that is none, too.
#[test]
fn what_is_required_is_not_skipped() {
    if std::env::var_os(INNER).is_some() {
        return;
    }
    let run = |required: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["kernels::coop::thin_products_repeat_bit_for_bit", "--exact"]);
        command.env(INNER, "1").env("RUGOSA_DISABLE", "coop").env(REQUIRE, required);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        (output.status.success(), said)
    };
    for (required, passes, says) in [
        ("", true, "skipped: thin_products_repeat_bit_for_bit: this device has no coop"),
        ("f16, int64", true, "skipped: thin_products"),
        ("f16, coop", false, "no coop here, which RUGOSA_REQUIRE asks for"),
        ("cop", false, "there is no feature \"cop\""),
    ] {
        let (passed, said) = run(required);
        assert!(passed == passes && said.contains(says), "{required:?}: {said}");
    }
}
