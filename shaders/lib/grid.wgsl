// Index of this workgroup in the whole launch. Launches are one-dimensional; the host folds them into two dimensions
// (65,535 workgroups each) and may cut them into several dispatches, each with its own base.
fn group_index(wid: vec3<u32>, nwg: vec3<u32>) -> u32 {
    return p.base + wid.x + wid.y * nwg.x;
}
