use std::fmt::Write;
use std::time::Instant;
use wgpu::util::DeviceExt;
fn gen_text(g: usize, nv: usize, bits: u32, unroll: usize, wg: usize) -> String {
    let mut s = String::new();
    let ty = if bits == 64 { "u64" } else { "f32" };
    let per = if bits == 64 { 2 } else { 1 };
    writeln!(s, "struct P {{ m: u32, n: u32, k: u32, tn: u32 }}
@group(0) @binding(0) var<storage, read> a: array<{ty}>;
@group(0) @binding(1) var<storage, read> b: array<{ty}>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size({wg}) fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {{
  let lane = lid % 8u;
  let tile = wid.x * {}u + lid / 8u;
  let m0 = tile / p.tn * {}u; let n0 = tile % p.tn * {}u;
  let kk = p.k / {per}u;", wg/8, g*8, nv*8).unwrap();
    for i in 0..g { writeln!(s, "let ia{i} = (m0 + {}u + lane) * kk;", i*8).unwrap(); }
    for j in 0..nv { writeln!(s, "let ib{j} = (n0 + {}u + lane) * kk;", j*8).unwrap(); }
    for r in 0..g*8 { for j in 0..nv { writeln!(s, "var c{r}_{j} = 0.0;").unwrap(); } }
    writeln!(s, "for (var k = 0u; k < kk; k += {unroll}u) {{").unwrap();
    for u in 0..unroll {
        for i in 0..g { writeln!(s, "let a{i}_{u} = a[ia{i} + k + {u}u];").unwrap(); }
        for j in 0..nv { writeln!(s, "let b{j}_{u} = b[ib{j} + k + {u}u];").unwrap(); }
        for h in 0..per {
            for j in 0..nv {
                if bits == 64 { writeln!(s, "let b{j}_{u}_{h} = bitcast<f32>(u32(b{j}_{u} >> {}u));", 32*h).unwrap(); }
                else { writeln!(s, "let b{j}_{u}_{h} = b{j}_{u};").unwrap(); }
            }
            for i in 0..g {
                if bits == 64 { writeln!(s, "let a{i}_{u}_{h} = bitcast<f32>(u32(a{i}_{u} >> {}u));", 32*h).unwrap(); }
                else { writeln!(s, "let a{i}_{u}_{h} = a{i}_{u};").unwrap(); }
                for r in 0..8 {
                    writeln!(s, "let s{i}_{u}_{h}_{r} = subgroupBroadcast(a{i}_{u}_{h}, {r}u);").unwrap();
                    for j in 0..nv { let rr = i*8+r; writeln!(s, "c{rr}_{j} = fma(s{i}_{u}_{h}_{r}, b{j}_{u}_{h}, c{rr}_{j});").unwrap(); }
                }
            }
        }
    }
    writeln!(s, "}}").unwrap();
    for r in 0..g*8 { for j in 0..nv { writeln!(s, "c[(m0 + {r}u) * p.n + n0 + {}u + lane] = c{r}_{j};", j*8).unwrap(); } }
    writeln!(s, "}}").unwrap();
    s
}
fn main() {
    let inst = wgpu::Instance::new(wgpu::InstanceDescriptor { backends: wgpu::Backends::VULKAN, ..wgpu::InstanceDescriptor::new_without_display_handle() });
    let ad = pollster::block_on(inst.enumerate_adapters(wgpu::Backends::all())).into_iter().next().unwrap();
    eprintln!("{:?}", ad.features() & (wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64| wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP_BARRIER|wgpu::Features::SHADER_F64));
    let (dev, q) = pollster::block_on(ad.request_device(&wgpu::DeviceDescriptor { required_features: wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64, required_limits: ad.limits(), ..Default::default() })).unwrap();
    let arg: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let (m, n, k) = (512u32, 512u32, 512u32);
    let mut x = 1u32; let mut rnd = || { x = x.wrapping_mul(1664525).wrapping_add(1013904223); (x >> 9) as f32 / 8388608.0 * 2.0 - 1.0 };
    let a: Vec<f32> = (0..m*k).map(|_| rnd()).collect();
    let b: Vec<f32> = (0..n*k).map(|_| rnd()).collect();
    let mk = |d: &[f32]| dev.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: bytemuck::cast_slice(d), usage: wgpu::BufferUsages::STORAGE });
    let (ba, bb) = (mk(&a), mk(&b));
    let bc = dev.create_buffer(&wgpu::BufferDescriptor { label: None, size: (m*n*4) as u64, usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC, mapped_at_creation: false });
    for cfg in arg.chunks(5) {
        let (g, nv, bits, unroll, wg) = (cfg[0], cfg[1], cfg[2] as u32, cfg[3], cfg[4]);
        let text = gen_text(g, nv, bits, unroll, wg);
        let pbuf = dev.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: bytemuck::cast_slice(&[m, n, k, n / (nv as u32 * 8)]), usage: wgpu::BufferUsages::UNIFORM });
        let t = Instant::now();
        let module = unsafe { dev.create_shader_module_trusted(wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(text.into()) }, wgpu::ShaderRuntimeChecks::unchecked()) };
        let pipe = dev.create_compute_pipeline(&wgpu::ComputePipelineDescriptor { label: None, layout: None, module: &module, entry_point: Some("main"), compilation_options: Default::default(), cache: None });
        let t_front = t.elapsed();
        let group = dev.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &pipe.get_bind_group_layout(0), entries: &[&ba, &bb, &bc, &pbuf].iter().enumerate().map(|(i, b)| wgpu::BindGroupEntry { binding: i as u32, resource: b.as_entire_binding() }).collect::<Vec<_>>() });
        let run = || {
            let t = Instant::now();
            let mut e = dev.create_command_encoder(&Default::default());
            { let mut pass = e.begin_compute_pass(&Default::default()); pass.set_pipeline(&pipe); pass.set_bind_group(0, &group, &[]); pass.dispatch_workgroups((m / (g as u32 * 8)) * (n / (nv as u32 * 8)) / (wg as u32 / 8), 1, 1); }
            q.submit([e.finish()]);
            dev.poll(wgpu::PollType::wait_indefinitely()).unwrap();
            t.elapsed().as_secs_f64()
        };
        let first = run();
        let best = (0..15).map(|_| run()).fold(1e9, f64::min);
        let st = dev.create_buffer(&wgpu::BufferDescriptor { label: None, size: (m*n*4) as u64, usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST, mapped_at_creation: false });
        let mut e = dev.create_command_encoder(&Default::default()); e.copy_buffer_to_buffer(&bc, 0, &st, 0, (m*n*4) as u64); q.submit([e.finish()]);
        st.slice(..).map_async(wgpu::MapMode::Read, |_| {}); dev.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        let v: Vec<f32> = bytemuck::pod_collect_to_vec(&st.slice(..).get_mapped_range().unwrap());
        let mut bad = 0.0f64;
        for i in (0..(m*n) as usize).step_by(997) { let (r, cc) = (i / n as usize, i % n as usize); let w: f64 = (0..k as usize).map(|l| a[r*k as usize+l] as f64 * b[cc*k as usize+l] as f64).sum(); bad = bad.max((w - v[i] as f64).abs()); }
        println!("rows {} cols {} bits {bits} unroll {unroll} wg {wg}: {:.1} GFLOP/s  front {:.0} ms  first {:.0} ms  err {bad:.1e}", g*8, nv*8, 2.0*(m*n) as f64*k as f64/best/1e9, t_front.as_secs_f64()*1e3, first*1e3);
    }
}
