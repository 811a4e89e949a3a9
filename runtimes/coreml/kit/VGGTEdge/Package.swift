// swift-tools-version: 6.0

import PackageDescription

let package = Package(
    name: "VGGTEdge",
    platforms: [.iOS(.v17), .macOS(.v14), .visionOS(.v1)],
    products: [
        // One product, so that the scheme called VGGTEdge also runs the tests.
        .library(name: "VGGTEdge", targets: ["VGGTEdge", "VGGTEdgeCore"])
    ],
    targets: [
        // Foundation only: builds and is tested on Linux as well.
        .target(name: "VGGTEdgeCore"),
        // Core ML and Core Video; empty where they do not exist.
        .target(name: "VGGTEdge", dependencies: ["VGGTEdgeCore"]),
        .testTarget(
            name: "VGGTEdgeCoreTests",
            dependencies: ["VGGTEdgeCore"],
            resources: [.copy("Resources/vectors.json")]
        ),
        .testTarget(name: "VGGTEdgeTests", dependencies: ["VGGTEdge", "VGGTEdgeCore"]),
    ]
)
