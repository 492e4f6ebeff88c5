// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "QwenEdge",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [
        .library(name: "QwenEdgeCore", targets: ["QwenEdgeCore"]),
    ],
    targets: [
        .target(name: "QwenEdgeCore"),
        .testTarget(name: "QwenEdgeCoreTests", dependencies: ["QwenEdgeCore"]),
    ]
)
