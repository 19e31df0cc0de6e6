// Four f32 as f16 in two words, and back; element 0 is the low half of the first. From 65,520 on a number rounds to no f16
// but infinity, and WGSL leaves open what pack2x16float makes of it, of its neighbour too: here it becomes NaN, as NaN
// does, so that whoever looks for numbers that are not finite finds it, and the neighbour stays what it is.
fn halves4(all: vec4<f32>) -> vec2<u32> {
    let fits = abs(all) < vec4<f32>(65520.0);
    let lost = select(vec4<u32>(0x7e00u), vec4<u32>(), fits);
    let v = select(vec4<f32>(), all, fits);
    return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw)) | lost.xz | (lost.yw << vec2<u32>(16u));
}

fn floats4(w: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
}
