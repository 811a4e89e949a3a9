// swift-tools-version: 6.0
// The kit and its tests as one package with stand-ins for Apple's frameworks: what `run` builds on Linux.

import PackageDescription

// Frameworks of the SDK are resilient and in Swift 5 mode; so are their stand-ins. Foundation on Linux is not, of which
// the compiler warns: warnings are errors everywhere else.
let framework: [SwiftSetting] = [
    .swiftLanguageMode(.v5), .unsafeFlags(["-enable-library-evolution", "-suppress-warnings"]),
]
// A check hashes megabytes, which takes a minute in a Debug build.
let optimized: [SwiftSetting] = framework + [.unsafeFlags(["-O"])]
let strict: [SwiftSetting] = [.unsafeFlags(["-warnings-as-errors"])]
let kit: [Target.Dependency] = ["VGGTEdge", "VGGTEdgeCore", "CoreML", "CoreVideo", "ARKit", "StandIn"]
let apple: [Target.Dependency] = [
    "VGGTEdgeCore", "CoreML", "CoreVideo", "CryptoKit", "Accelerate", "ImageIO", "Compression", "StandIn",
]

let package = Package(
    name: "VGGTEdgeOnLinux",
    targets: [
        .target(name: "StandIn", swiftSettings: [.swiftLanguageMode(.v5)]),
        .target(name: "CoreVideo", swiftSettings: framework),
        .target(name: "CoreML", dependencies: ["CoreVideo", "StandIn"], swiftSettings: framework),
        .target(name: "CryptoKit", swiftSettings: optimized),
        .target(name: "Accelerate", swiftSettings: framework),
        .target(name: "CoreGraphics", dependencies: ["CoreVideo"], swiftSettings: framework),
        .target(name: "ImageIO", dependencies: ["CoreGraphics"], swiftSettings: framework),
        .target(name: "Compression", swiftSettings: framework),
        .target(name: "ARKit", dependencies: ["CoreVideo"], swiftSettings: framework),
        .target(name: "VGGTEdgeCore", swiftSettings: strict),
        .target(name: "VGGTEdge", dependencies: apple, swiftSettings: strict),
        .target(name: "Examples", dependencies: kit, swiftSettings: strict),
        .executableTarget(name: "Fuzz", dependencies: ["VGGTEdgeCore"], swiftSettings: strict),
        .executableTarget(name: "Benchmark", dependencies: kit, swiftSettings: strict),
        .testTarget(
            name: "VGGTEdgeCoreTests",
            dependencies: ["VGGTEdgeCore"],
            resources: [.copy("Resources/vectors.json")],
            swiftSettings: strict
        ),
        .testTarget(name: "VGGTEdgeTests", dependencies: kit, swiftSettings: strict),
        .testTarget(name: "AppLifeTests", dependencies: kit, swiftSettings: strict),
    ]
)
