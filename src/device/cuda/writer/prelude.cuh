// What the CUDA form of every kernel starts with: WGSL's types, operators and functions. NVRTC compiles it without a toolkit's
// headers, so halves and matrix units are reached by PTX.
typedef unsigned int u32;
typedef int i32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;
#define FN static __device__ __forceinline__

// Storage only: arithmetic on two halves is done in f32 and rounded once, which gives the same numbers.
struct f16 {
    u16 bits;
    FN f16 of_bits(u16 bits) { f16 h; h.bits = bits; return h; }
    f16() = default;
    __device__ __forceinline__ explicit f16(f32 x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
    __device__ __forceinline__ operator f32() const { f32 x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits)); return x; }
};

template<class T> struct __align__(2 * sizeof(T)) vec2 {
    T x, y;
    __device__ __forceinline__ T& operator[](u32 i) { return (&x)[i]; }
    __device__ __forceinline__ T at(u32 i) const { return i == 0 ? x : y; }
};
template<class T> struct __align__(4 * sizeof(T)) vec3 {
    T x, y, z;
    __device__ __forceinline__ T& operator[](u32 i) { return (&x)[i]; }
    __device__ __forceinline__ T at(u32 i) const { return i == 0 ? x : i == 1 ? y : z; }
};
template<class T> struct __align__(4 * sizeof(T)) vec4 {
    T x, y, z, w;
    __device__ __forceinline__ T& operator[](u32 i) { return (&x)[i]; }
    __device__ __forceinline__ T at(u32 i) const { return i == 0 ? x : i == 1 ? y : i == 2 ? z : w; }
};
template<class T, u32 N> struct array {
    T all[N];
    __device__ __forceinline__ T& operator[](u32 i) { return all[i]; }
    __device__ __forceinline__ T at(u32 i) const { return all[i]; }
};

#define BINARY(op) \
    template<class T> FN vec2<T> operator op(vec2<T> a, vec2<T> b) { return {T(a.x op b.x), T(a.y op b.y)}; } \
    template<class T> FN vec3<T> operator op(vec3<T> a, vec3<T> b) { return {T(a.x op b.x), T(a.y op b.y), T(a.z op b.z)}; } \
    template<class T> FN vec4<T> operator op(vec4<T> a, vec4<T> b) { return {T(a.x op b.x), T(a.y op b.y), T(a.z op b.z), T(a.w op b.w)}; }
#define SCALED(op) BINARY(op) \
    template<class T> FN vec2<T> operator op(vec2<T> a, T b) { return {T(a.x op b), T(a.y op b)}; } \
    template<class T> FN vec3<T> operator op(vec3<T> a, T b) { return {T(a.x op b), T(a.y op b), T(a.z op b)}; } \
    template<class T> FN vec4<T> operator op(vec4<T> a, T b) { return {T(a.x op b), T(a.y op b), T(a.z op b), T(a.w op b)}; } \
    template<class T> FN vec2<T> operator op(T a, vec2<T> b) { return {T(a op b.x), T(a op b.y)}; } \
    template<class T> FN vec3<T> operator op(T a, vec3<T> b) { return {T(a op b.x), T(a op b.y), T(a op b.z)}; } \
    template<class T> FN vec4<T> operator op(T a, vec4<T> b) { return {T(a op b.x), T(a op b.y), T(a op b.z), T(a op b.w)}; }
#define SHIFT(op) \
    template<class T> FN vec2<T> operator op(vec2<T> a, vec2<u32> b) { return {T(a.x op b.x), T(a.y op b.y)}; } \
    template<class T> FN vec3<T> operator op(vec3<T> a, vec3<u32> b) { return {T(a.x op b.x), T(a.y op b.y), T(a.z op b.z)}; } \
    template<class T> FN vec4<T> operator op(vec4<T> a, vec4<u32> b) { return {T(a.x op b.x), T(a.y op b.y), T(a.z op b.z), T(a.w op b.w)}; }
#define COMPARISON(op) \
    template<class T> FN vec2<bool> operator op(vec2<T> a, vec2<T> b) { return {a.x op b.x, a.y op b.y}; } \
    template<class T> FN vec3<bool> operator op(vec3<T> a, vec3<T> b) { return {a.x op b.x, a.y op b.y, a.z op b.z}; } \
    template<class T> FN vec4<bool> operator op(vec4<T> a, vec4<T> b) { return {a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w}; }
#define UNARY(op) \
    template<class T> FN vec2<T> operator op(vec2<T> a) { return {T(op a.x), T(op a.y)}; } \
    template<class T> FN vec3<T> operator op(vec3<T> a) { return {T(op a.x), T(op a.y), T(op a.z)}; } \
    template<class T> FN vec4<T> operator op(vec4<T> a) { return {T(op a.x), T(op a.y), T(op a.z), T(op a.w)}; }
SCALED(+) SCALED(-) SCALED(*) SCALED(/) BINARY(%) BINARY(&) BINARY(|) BINARY(^) SHIFT(<<) SHIFT(>>)
COMPARISON(==) COMPARISON(!=) COMPARISON(<) COMPARISON(<=) COMPARISON(>) COMPARISON(>=) UNARY(-) UNARY(!) UNARY(~)

// A function of scalars, for vectors too.
#define LIFT1(f) \
    template<class T> FN vec2<T> f(vec2<T> a) { return {f(a.x), f(a.y)}; } \
    template<class T> FN vec3<T> f(vec3<T> a) { return {f(a.x), f(a.y), f(a.z)}; } \
    template<class T> FN vec4<T> f(vec4<T> a) { return {f(a.x), f(a.y), f(a.z), f(a.w)}; }
#define LIFT2(f) \
    template<class T> FN vec2<T> f(vec2<T> a, vec2<T> b) { return {f(a.x, b.x), f(a.y, b.y)}; } \
    template<class T> FN vec3<T> f(vec3<T> a, vec3<T> b) { return {f(a.x, b.x), f(a.y, b.y), f(a.z, b.z)}; } \
    template<class T> FN vec4<T> f(vec4<T> a, vec4<T> b) { return {f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)}; }
#define LIFT3(f) \
    template<class T> FN vec2<T> f(vec2<T> a, vec2<T> b, vec2<T> c) { return {f(a.x, b.x, c.x), f(a.y, b.y, c.y)}; } \
    template<class T> FN vec3<T> f(vec3<T> a, vec3<T> b, vec3<T> c) { return {f(a.x, b.x, c.x), f(a.y, b.y, c.y), f(a.z, b.z, c.z)}; } \
    template<class T> FN vec4<T> f(vec4<T> a, vec4<T> b, vec4<T> c) { return {f(a.x, b.x, c.x), f(a.y, b.y, c.y), f(a.z, b.z, c.z), f(a.w, b.w, c.w)}; }

FN f32 w_abs(f32 x) { return fabsf(x); }
FN i32 w_abs(i32 x) { return abs(x); }
FN u32 w_abs(u32 x) { return x; }
FN f32 w_min(f32 a, f32 b) { return fminf(a, b); }
FN u32 w_min(u32 a, u32 b) { return a < b ? a : b; }
FN i32 w_min(i32 a, i32 b) { return a < b ? a : b; }
FN f32 w_max(f32 a, f32 b) { return fmaxf(a, b); }
FN u32 w_max(u32 a, u32 b) { return a > b ? a : b; }
FN i32 w_max(i32 a, i32 b) { return a > b ? a : b; }
template<class T> FN T w_clamp(T x, T low, T high) { return w_min(w_max(x, low), high); }
// as Vulkan's drivers compute them: 2^x on the special function unit
FN f32 w_exp2(f32 x) { f32 y; asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
FN f32 w_exp(f32 x) { return w_exp2(x * 1.4426950408889634f); }
FN f32 w_log(f32 x) { return logf(x); }
FN f32 w_log2(f32 x) { return log2f(x); }
FN f32 w_pow(f32 x, f32 y) { return powf(x, y); }
FN f32 w_sin(f32 x) { return sinf(x); }
FN f32 w_cos(f32 x) { return cosf(x); }
FN f32 w_tanh(f32 x) { return tanhf(x); }
FN f32 w_sqrt(f32 x) { return sqrtf(x); }
FN f32 w_inverseSqrt(f32 x) { return rsqrtf(x); }
FN f32 w_floor(f32 x) { return floorf(x); }
FN f32 w_ceil(f32 x) { return ceilf(x); }
FN f32 w_round(f32 x) { return rintf(x); }
FN f32 w_trunc(f32 x) { return truncf(x); }
FN f32 w_sign(f32 x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }
FN f32 w_fma(f32 a, f32 b, f32 c) { return fmaf(a, b, c); }
FN f32 w_mix(f32 a, f32 b, f32 t) { return a * (1.0f - t) + b * t; }
FN f32 w_step(f32 edge, f32 x) { return edge <= x ? 1.0f : 0.0f; }
FN u32 w_firstLeadingBit(u32 x) { return x == 0u ? 0xffffffffu : 31u - __clz(x); }
FN u32 w_countOneBits(u32 x) { return __popc(x); }
FN u32 w_countLeadingZeros(u32 x) { return __clz(x); }
LIFT1(w_abs) LIFT1(w_exp2) LIFT1(w_exp) LIFT1(w_log) LIFT1(w_log2) LIFT1(w_sin) LIFT1(w_cos) LIFT1(w_tanh) LIFT1(w_sqrt)
LIFT1(w_inverseSqrt) LIFT1(w_floor) LIFT1(w_ceil) LIFT1(w_round) LIFT1(w_trunc) LIFT1(w_sign)
LIFT1(w_firstLeadingBit) LIFT1(w_countOneBits) LIFT1(w_countLeadingZeros)
LIFT2(w_min) LIFT2(w_max) LIFT2(w_pow) LIFT2(w_step) LIFT3(w_fma) LIFT3(w_mix)
template<class T> FN T w_dot(vec2<T> a, vec2<T> b) { return a.x * b.x + a.y * b.y; }
template<class T> FN T w_dot(vec3<T> a, vec3<T> b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
template<class T> FN T w_dot(vec4<T> a, vec4<T> b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
FN bool w_any(vec2<bool> a) { return a.x || a.y; }
FN bool w_any(vec3<bool> a) { return a.x || a.y || a.z; }
FN bool w_any(vec4<bool> a) { return a.x || a.y || a.z || a.w; }
FN bool w_any(bool a) { return a; }
FN bool w_all(vec2<bool> a) { return a.x && a.y; }
FN bool w_all(vec3<bool> a) { return a.x && a.y && a.z; }
FN bool w_all(vec4<bool> a) { return a.x && a.y && a.z && a.w; }
FN bool w_all(bool a) { return a; }
template<class T> FN T w_select(T reject, T accept, bool c) { return c ? accept : reject; }
template<class T> FN vec2<T> w_select(vec2<T> r, vec2<T> a, vec2<bool> c) { return {c.x ? a.x : r.x, c.y ? a.y : r.y}; }
template<class T> FN vec3<T> w_select(vec3<T> r, vec3<T> a, vec3<bool> c) { return {c.x ? a.x : r.x, c.y ? a.y : r.y, c.z ? a.z : r.z}; }
template<class T> FN vec4<T> w_select(vec4<T> r, vec4<T> a, vec4<bool> c) { return {c.x ? a.x : r.x, c.y ? a.y : r.y, c.z ? a.z : r.z, c.w ? a.w : r.w}; }

template<class T, class S> FN T to(S x) { return T(x); }
template<class T, class S> FN vec2<T> to(vec2<S> v) { return {T(v.x), T(v.y)}; }
template<class T, class S> FN vec3<T> to(vec3<S> v) { return {T(v.x), T(v.y), T(v.z)}; }
template<class T, class S> FN vec4<T> to(vec4<S> v) { return {T(v.x), T(v.y), T(v.z), T(v.w)}; }

template<class T> struct Bits;
template<> struct Bits<f32> { FN f32 of(u32 x) { return __uint_as_float(x); } FN f32 of(i32 x) { return __int_as_float(x); } FN f32 of(f32 x) { return x; } };
template<> struct Bits<u32> { FN u32 of(f32 x) { return __float_as_uint(x); } FN u32 of(i32 x) { return u32(x); } FN u32 of(u32 x) { return x; } };
template<> struct Bits<i32> { FN i32 of(f32 x) { return __float_as_int(x); } FN i32 of(u32 x) { return i32(x); } FN i32 of(i32 x) { return x; } };
template<class T, class S> FN T bits(S x) { return Bits<T>::of(x); }
template<class T, class S> FN vec2<T> bits(vec2<S> v) { return {bits<T>(v.x), bits<T>(v.y)}; }
template<class T, class S> FN vec3<T> bits(vec3<S> v) { return {bits<T>(v.x), bits<T>(v.y), bits<T>(v.z)}; }
template<class T, class S> FN vec4<T> bits(vec4<S> v) { return {bits<T>(v.x), bits<T>(v.y), bits<T>(v.z), bits<T>(v.w)}; }

FN u32 w_pack2x16float(vec2<f32> v) { u32 x; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(v.y), "f"(v.x)); return x; }
FN vec2<f32> w_unpack2x16float(u32 x) { return {f32(f16::of_bits(u16(x))), f32(f16::of_bits(u16(x >> 16)))}; }

// Atomics of 32 bits, wherever they lie.
FN u32 atomic_load(const u32& from) { u32 x; asm volatile("ld.relaxed.gpu.u32 %0, [%1];" : "=r"(x) : "l"(&from) : "memory"); return x; }
FN i32 atomic_load(const i32& from) { i32 x; asm volatile("ld.relaxed.gpu.s32 %0, [%1];" : "=r"(x) : "l"(&from) : "memory"); return x; }
FN void atomic_store(u32& to, u32 x) { asm volatile("st.relaxed.gpu.u32 [%0], %1;" : : "l"(&to), "r"(x) : "memory"); }
FN void atomic_store(i32& to, i32 x) { asm volatile("st.relaxed.gpu.s32 [%0], %1;" : : "l"(&to), "r"(x) : "memory"); }

// Subgroups are warps, and all of a warp's threads come here together.
#define ALL 0xffffffffu
FN u32 lane_of() { return threadIdx.x & 31u; }
FN f32 shuffle(f32 x, u32 lane) { return __shfl_sync(ALL, x, lane); }
FN u32 shuffle(u32 x, u32 lane) { return __shfl_sync(ALL, x, lane); }
FN i32 shuffle(i32 x, u32 lane) { return __shfl_sync(ALL, x, lane); }
template<class T> FN vec2<T> shuffle(vec2<T> v, u32 lane) { return {shuffle(v.x, lane), shuffle(v.y, lane)}; }
template<class T> FN vec4<T> shuffle(vec4<T> v, u32 lane) { return {shuffle(v.x, lane), shuffle(v.y, lane), shuffle(v.z, lane), shuffle(v.w, lane)}; }
template<class T> FN T subgroup_add(T x) { for (u32 s = 16; s > 0; s >>= 1) x = x + shuffle(x, lane_of() ^ s); return x; }
template<class T> FN T subgroup_min(T x) { for (u32 s = 16; s > 0; s >>= 1) x = w_min(x, shuffle(x, lane_of() ^ s)); return x; }
template<class T> FN T subgroup_max(T x) { for (u32 s = 16; s > 0; s >>= 1) x = w_max(x, shuffle(x, lane_of() ^ s)); return x; }
FN bool subgroup_any(bool x) { return __any_sync(ALL, x); }
FN bool subgroup_all(bool x) { return __all_sync(ALL, x); }

// Fragments of 16 × 16, as mma.m16n8k16 has them: lane 4g + t holds of C rows g and g + 8, columns 2t and 2t + 1 of both halves.
struct mat_a { u32 r[4]; };
struct mat_b { u32 r[4]; };
struct mat_c {
    f32 r[8];
    FN mat_c zero() { return {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}}; }
};
FN mat_c operator*(mat_c c, f32 by) {
    #pragma unroll
    for (int i = 0; i < 8; i++) c.r[i] *= by;
    return c;
}
FN mat_c operator+(mat_c c, mat_c d) {
    #pragma unroll
    for (int i = 0; i < 8; i++) c.r[i] += d.r[i];
    return c;
}
template<bool transposed> FN void matrices(u32 (&r)[4], const u16* from) {
    u32 at = u32(__cvta_generic_to_shared(from));
    if (transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
            : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
            : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    }
}
// From workgroup memory, in lines of `stride` elements of E; rows first where `rows` is true.
template<bool rows, class E> FN mat_a load_a(const E& from, u32 stride) {
    const u16* base = (const u16*)&from;
    u32 line = stride * (sizeof(E) / 2), l = lane_of();
    u32 low = (l & 7u), second = ((l >> 3) & 1u) * 8u, third = (l >> 4) * 8u;
    mat_a m;
    if (rows) matrices<false>(m.r, base + (low + second) * line + third);
    else matrices<true>(m.r, base + (low + third) * line + second);
    return m;
}
template<bool rows, class E> FN mat_b load_b(const E& from, u32 stride) {
    const u16* base = (const u16*)&from;
    u32 line = stride * (sizeof(E) / 2), l = lane_of();
    u32 low = (l & 7u), second = ((l >> 3) & 1u) * 8u, third = (l >> 4) * 8u;
    mat_b m;
    if (rows) matrices<true>(m.r, base + (low + second) * line + third);
    else matrices<false>(m.r, base + (low + third) * line + second);
    return m;
}
// Lines are of whole fours of f32, as all matrix units want it.
template<bool rows, class E> FN mat_c load_c(const E& from, u32 stride) {
    const f32* base = (const f32*)&from;
    u32 line = stride * (sizeof(E) / 4), g = lane_of() >> 2, t = (lane_of() & 3u) * 2u;
    mat_c m;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 row = g + (i & 1) * 8, col = t + (i >> 1) * 8;
        if (rows) {
            vec2<f32> pair = *(const vec2<f32>*)(base + row * line + col);
            m.r[2 * i] = pair.x; m.r[2 * i + 1] = pair.y;
        } else {
            m.r[2 * i] = base[col * line + row]; m.r[2 * i + 1] = base[(col + 1) * line + row];
        }
    }
    return m;
}
template<bool rows, class E> FN void store_c(mat_c m, E& to, u32 stride) {
    f32* base = (f32*)&to;
    u32 line = stride * (sizeof(E) / 4), g = lane_of() >> 2, t = (lane_of() & 3u) * 2u;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 row = g + (i & 1) * 8, col = t + (i >> 1) * 8;
        if (rows) {
            *(vec2<f32>*)(base + row * line + col) = {m.r[2 * i], m.r[2 * i + 1]};
        } else {
            base[col * line + row] = m.r[2 * i]; base[(col + 1) * line + row] = m.r[2 * i + 1];
        }
    }
}
FN mat_c multiply_add(mat_a a, mat_b b, mat_c c) {
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c.r[4 * h]), "+f"(c.r[4 * h + 1]), "+f"(c.r[4 * h + 2]), "+f"(c.r[4 * h + 3])
            : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[2 * h]), "r"(b.r[2 * h + 1]));
    }
    return c;
}
