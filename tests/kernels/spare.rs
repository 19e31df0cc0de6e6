//! A few of the rows that only a run asks for: their references and bounds hold as the others' do. A run runs those that it
//! needs, on the device that it needs them for.

use crate::common::*;
use rugosa::cases::{Level, table};
use rugosa::device::{Device, DeviceClass};

/// Every so many-th of them; a prime, so that each form comes up with each format.
const EACH: usize = 41;

fn hold(dev: &Device, each: usize) {
    let rows: Vec<_> = table().into_iter().filter(|r| r.level == Level::Spare).step_by(each).collect();
    for row in &rows {
        let outcome = row.run(dev).unwrap();
        assert_eq!(outcome.fault, None, "{} {}", row.op, row.what);
    }
    assert!(!rows.is_empty());
}

#[test]
fn some_of_them_hold() {
    hold(device(), EACH);
    if let Some(dev) = units() {
        // software renderers compile a kernel of matrix units for seconds
        hold(dev, if dev.caps().class == DeviceClass::Software { 4 * EACH } else { EACH });
    }
}
