// swift-tools-version: 6.0
import PackageDescription

// A package of its own, so that whoever needs Core ML only need not fetch ExecuTorch.
let package = Package(
    name: "QwenEdgeExecuTorch",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [.library(name: "QwenEdgeExecuTorch", targets: ["QwenEdgeExecuTorch"])],
    dependencies: [
        .package(name: "QwenEdge", path: ".."),
        // the commit that the branch swiftpm-1.5.0 stands at; kernels are those of the Python package 1.5.1
        .package(url: "https://github.com/pytorch/executorch", revision: "56cc93a96d5f"),
    ],
    targets: [
        .target(
            name: "QwenEdgeExecuTorch",
            dependencies: [
                .product(name: "QwenEdgeCore", package: "QwenEdge"),
                .product(name: "executorch", package: "executorch"),
                .product(name: "backend_xnnpack", package: "executorch"),
                .product(name: "kernels_llm", package: "executorch"),
                .product(name: "kernels_optimized", package: "executorch"),
                .product(name: "kernels_quantized", package: "executorch"),
                .product(name: "threadpool", package: "executorch"),
            ])
    ]
)
