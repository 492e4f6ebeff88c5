// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "QwenEdge",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [
        .library(name: "QwenEdgeCore", targets: ["QwenEdgeCore"]),
        .library(name: "QwenEdgeCoreML", targets: ["QwenEdgeCoreML"]),
        .library(name: "QwenEdgeCoreAI", targets: ["QwenEdgeCoreAI"]),
    ],
    targets: [
        .target(name: "QwenEdgeCore"),
        .target(name: "QwenEdgeCoreML", dependencies: ["QwenEdgeCore"]),
        .target(name: "QwenEdgeCoreAI", dependencies: ["QwenEdgeCore"]),
        .testTarget(name: "QwenEdgeCoreTests", dependencies: ["QwenEdgeCore"]),
    ]
)
