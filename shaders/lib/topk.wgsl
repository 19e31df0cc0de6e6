// What the passes of the radix select share. A score's key is its magnitude's bits: they order as the magnitudes do.
// state: [0] the high bits found so far, in the end the key of the k-th largest; [1] how many entries with these bits
// are still to be taken; [2] 1 if a score is not finite.
const BINS: u32 = 2048u;  // of a digit; word BINS of the histogram is the flag of scores that are not finite
const BLOCK: u32 = 8192u; // scores a workgroup of 256 looks at in order: 32 a thread

fn key_of(bits: u32) -> u32 {
    return bits & 0x7fffffffu;
}
