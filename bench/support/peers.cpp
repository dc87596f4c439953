// SPDX-License-Identifier: Apache-2.0
#include "support/peers.hpp"

#if BENCH_HAS_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#endif
#if BENCH_HAS_OPENBLAS
#include <cblas.h>
#endif
#if BENCH_HAS_EIGEN
#include <Eigen/Core>
#endif

namespace bench {

namespace {

#if BENCH_HAS_ONEDNN
contender onednn_sgemm(const dense_product& p) {
  return {"oneDNN sgemm", [p] {
            dnnl::sgemm(p.a_transposed ? 'T' : 'N', p.b_transposed ? 'T' : 'N', p.m, p.n, p.k, 1.0f, p.a, p.a_transposed ? p.m : p.k, p.b,
                        p.b_transposed ? p.k : p.n, 0.0f, p.c, p.n);
          }};
}

/// The primitive is made once, as an inference engine would; the weights stay as they are, since training needs them raw.
contender onednn_matmul(const dense_product& p) {
  using namespace dnnl;
  using tag = memory::format_tag;
  const engine cpu(engine::kind::cpu, 0);
  const auto plain = [](bool transposed) { return transposed ? tag::ba : tag::ab; };
  const memory::desc a({p.m, p.k}, memory::data_type::f32, plain(p.a_transposed)), b({p.k, p.n}, memory::data_type::f32, plain(p.b_transposed)),
      c({p.m, p.n}, memory::data_type::f32, tag::ab);
  const matmul product(matmul::primitive_desc(matmul::desc(a, b, c), cpu));
  stream s(cpu);
  const memory am(a, cpu, const_cast<float*>(p.a)), bm(b, cpu, const_cast<float*>(p.b)), cm(c, cpu, p.c);
  return {"oneDNN matmul", [=]() mutable {
            product.execute(s, {{DNNL_ARG_SRC, am}, {DNNL_ARG_WEIGHTS, bm}, {DNNL_ARG_DST, cm}});
            s.wait();
          }};
}
#endif

#if BENCH_HAS_OPENBLAS
contender openblas(const dense_product& p) {
  const auto blas = [](index_t i) { return static_cast<blasint>(i); };
  return {"OpenBLAS", [=] {
            if (p.m == 1 && !p.a_transposed && p.b_transposed)
              cblas_sgemv(CblasRowMajor, CblasNoTrans, blas(p.n), blas(p.k), 1.0f, p.b, blas(p.k), p.a, 1, 0.0f, p.c, 1);
            else
              cblas_sgemm(CblasRowMajor, p.a_transposed ? CblasTrans : CblasNoTrans, p.b_transposed ? CblasTrans : CblasNoTrans, blas(p.m),
                          blas(p.n), blas(p.k), 1.0f, p.a, blas(p.a_transposed ? p.m : p.k), p.b, blas(p.b_transposed ? p.k : p.n), 0.0f, p.c,
                          blas(p.n));
          }};
}
#endif

#if BENCH_HAS_EIGEN
contender eigen(const dense_product& p) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return {"Eigen", [p] {
            const Eigen::Map<const matrix> a(p.a, p.a_transposed ? p.k : p.m, p.a_transposed ? p.m : p.k),
                b(p.b, p.b_transposed ? p.n : p.k, p.b_transposed ? p.k : p.n);
            Eigen::Map<matrix> c(p.c, p.m, p.n);
            if (p.a_transposed) c.noalias() = a.transpose() * b;
            else if (p.b_transposed) c.noalias() = a * b.transpose();
            else c.noalias() = a * b;
          }};
}
#endif

}  // namespace

std::vector<contender> product_peers([[maybe_unused]] const dense_product& p) {
  std::vector<contender> all;
#if BENCH_HAS_ONEDNN
  all.push_back(onednn_matmul(p));
  all.push_back(onednn_sgemm(p));
#endif
#if BENCH_HAS_OPENBLAS
  all.push_back(openblas(p));
#endif
#if BENCH_HAS_EIGEN
  all.push_back(eigen(p));
#endif
  return all;
}

}  // namespace bench
