//! When what was recorded is handed over.

use rugosa::device::{Device, DeviceOptions};
use rugosa::kernels::To;
use rugosa::kernels::elementwise::add;
use rugosa::tensor::Tensor;

#[test]
fn a_device_that_was_waited_for_starts_before_much_is_recorded() {
    // its own, since submissions are counted
    let dev = &Device::open(&DeviceOptions::from_env(None)).unwrap();
    let one = Tensor::from_slice(dev, &[4], &[1f32; 4], "test").unwrap();
    for wait in [true, false] {
        let mut sum = one.duplicate("test").unwrap();
        if wait {
            dev.wait().unwrap();
        } else {
            // who reads waits too, for what was submitted until then
            assert_eq!(sum.read::<f32>().unwrap(), [1.0; 4]);
        }
        let before = dev.counters().submissions;
        for _ in 0..48 {
            sum = add(&sum, &one, To::default()).unwrap();
        }
        assert!(dev.counters().submissions > before, "48 launches and none handed over, after a wait: {wait}");
        assert_eq!(sum.read::<f32>().unwrap(), [49.0; 4]);
    }
}
