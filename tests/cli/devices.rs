use super::{rugosa, run};
use serde_json::Value;

fn list(args: &str, env: &[(&str, &str)]) -> Vec<Value> {
    let (code, stdout, stderr) = run(rugosa(args).envs(env.iter().copied()));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn json_lists_every_device_with_its_limits() {
    let rows = list("devices --json", &[]);
    assert!(!rows.is_empty());
    assert_eq!(rows.iter().filter(|r| r["chosen"] == true).count(), 1);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row["index"], i);
        for name in ["name", "api", "driver", "class"] {
            assert!(row[name].is_string(), "{name} in {row}");
        }
        for name in ["max_binding_bytes", "max_buffer_bytes", "max_workgroup_memory_bytes"] {
            assert!(row[name].as_u64() >= Some(16 << 10), "{name} in {row}");
        }
        let features = row["features"].as_array().unwrap();
        assert!(row["used"].as_array().unwrap().iter().all(|f| features.contains(f)), "{row}");
    }
}

#[test]
fn the_environment_chooses_and_switches_off() {
    let rows = list("devices --json", &[("RUGOSA_DEVICE", "0"), ("RUGOSA_DISABLE", "timestamps")]);
    assert_eq!(rows[0]["chosen"], true);
    assert!(rows.iter().all(|r| !r["used"].as_array().unwrap().contains(&"timestamps".into())));
    // one that is not there: the list helps, and the line says so
    let (code, stdout, stderr) = run(rugosa("devices --json").env("RUGOSA_DEVICE", "no such device"));
    let rows: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    assert!(code == Some(1) && rows.iter().all(|r| r["chosen"] == false), "{stderr}");
    assert!(stderr.starts_with("error: RUGOSA_DEVICE: no device matches \"no such device\""), "{stderr}");
}

#[test]
fn the_table_names_the_same_devices() {
    let (code, stdout, _) = run(&mut rugosa("devices"));
    assert_eq!(code, Some(0));
    for row in list("devices --json", &[]) {
        assert!(stdout.contains(row["name"].as_str().unwrap()), "{stdout}");
    }
    assert_eq!(stdout.lines().filter(|l| l.starts_with("*  ")).count(), 1, "{stdout}");
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_device_one_line_says_how_to_get_one() {
    for args in ["devices", "devices --json"] {
        let mut command = rugosa(args);
        super::without_devices(&mut command);
        super::fails(&mut command, 1, &["apt install mesa-vulkan-drivers", "dnf", "pacman"]);
    }
}
