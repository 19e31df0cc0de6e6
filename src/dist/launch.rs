//! How ranks come into being: started by `mpirun`, `mpiexec` or `srun`, which say so in the environment.

use super::Ranks;
use crate::env;
use crate::error::{Error, Result};
use std::ffi::OsString;

/// Variables in which launchers say how many processes they started, in the order in which they are believed.
const SIZES: [&str; 5] =
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE"];

/// The ranks that a launcher started; one where there was none.
///
/// # Errors
/// [`Error::Usage`] where several processes were started that cannot know of each other: each would train by itself.
pub fn start() -> Result<Ranks> {
    match launched(env::system) {
        None | Some((_, 1)) => Ok(Ranks::alone()),
        Some((name, size)) => together(name, size),
    }
}

#[cfg(feature = "mpi")]
fn together(name: &str, size: usize) -> Result<Ranks> {
    let ranks = super::mpi::start()?;
    if ranks.size() == size {
        return Ok(ranks);
    }
    Err(Error::Usage {
        what: name.to_owned(),
        reason: format!(
            "{size} processes were started, but MPI knows of {}: start them with the mpirun of the MPI that this program was \
             built with, or with srun ⟨mpi=pmix⟩; see docs/distributed.md",
            ranks.size()
        ),
    })
}

#[cfg(not(feature = "mpi"))]
fn together(name: &str, size: usize) -> Result<Ranks> {
    Err(Error::Usage {
        what: name.to_owned(),
        reason: format!(
            "{size} processes were started together, but this program was built without MPI and each would train by itself: \
             build it with the feature mpi, or start one; see docs/distributed.md"
        ),
    })
}

/// How many processes were started together, and the variable that says so.
fn launched(variable: impl Fn(&str) -> Option<OsString>) -> Option<(&'static str, usize)> {
    let size = |name: &'static str| Some((name, variable(name)?.to_str()?.trim().parse().ok()?));
    SIZES.into_iter().find_map(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_say_how_many_they_started() {
        let with =
            |name: &'static str, value: &'static str| launched(move |asked| (asked == name).then(|| value.into()));
        assert_eq!(with("OMPI_COMM_WORLD_SIZE", "4"), Some(("OMPI_COMM_WORLD_SIZE", 4)));
        assert_eq!(with("WORLD_SIZE", " 2 "), Some(("WORLD_SIZE", 2)));
        assert_eq!(with("WORLD_SIZE", "many"), None);
        assert_eq!(with("SLURM_NTASKS", "4"), None, "of a batch script, whose commands are one process each");
    }
}
